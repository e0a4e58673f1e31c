"""Ends of a model whose blocks are in the journal until they are tuned."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from converters.format import ModelWriter
from converters.parts import Parts, StoredBlock
from phi3quant.errors import ResumeError
from phi3quant.model.architecture import LINEARS
from phi3quant.model.config import Phi3Config
from phi3quant.progress import Progress
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.codecs import Codecs
from phi3quant.quant.tensor import Quantized
from phi3quant.run.journal import Journal


@dataclass
class Ends:
    """Embedding, last norm and head of a run; a writer that leaves the blocks to the journal.

    Implements ModelWriter.
    """

    table: torch.Tensor | Quantized | None = None
    norm: torch.Tensor | None = None
    output: torch.Tensor | Quantized | None = None
    hashed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def embedding(self, weight: torch.Tensor | Quantized) -> None:
        """See ModelWriter."""
        self.table = weight

    def block(self, index: int, block: QuantizedBlock) -> None:
        """See ModelWriter."""

    def final(self, norm: torch.Tensor, head: torch.Tensor | Quantized | None) -> None:
        """See ModelWriter."""
        self.norm, self.output = norm, head

    def complete(self) -> None:
        """See Completable."""

    def abandon(self) -> None:
        """See Completable."""

    def parts(self, journal: Journal, config: Phi3Config, codecs: Callable[[int], Codecs]) -> Parts:
        """Parts of the quantized model, whose blocks are in the journal."""
        table, norm = self.table, self.norm
        assert table is not None and norm is not None  # noqa: PT018
        head = table if self.output is None else self.output

        def block(index: int) -> StoredBlock:
            record = journal.take(index, config, codecs(index))
            if record is None:
                raise ResumeError(
                    f"block {index} in {journal.folder} is damaged; pass --resume to quantize it "
                    "again"
                )
            return {**record.block.norms, **record.block.linears}

        return Parts(None, lambda: _floats(table), block, lambda: norm, lambda: _floats(head))

    def write(
        self, config: Phi3Config, parts: Parts, writers: Sequence[ModelWriter], progress: Progress
    ) -> None:
        """Write a model with these ends and the blocks and last norm of ``parts``."""
        assert self.table is not None
        with progress("writing", config.num_hidden_layers) as step:
            for writer in writers:
                writer.embedding(self.table)
            for index in range(config.num_hidden_layers):
                stored = parts.block(index)
                block = QuantizedBlock(
                    {key: value for key, value in stored.items() if key not in LINEARS},  # type: ignore[misc]
                    {key: stored[key] for key in LINEARS},  # type: ignore[misc]
                    losses={},
                    folds={},
                )
                for writer in writers:
                    writer.block(index, block)
                step()
            for writer in writers:
                writer.final(parts.final_norm(), self.output)


def _floats(tensor: torch.Tensor | Quantized) -> torch.Tensor:
    return tensor.float() if isinstance(tensor, torch.Tensor) else tensor.dequantize()
