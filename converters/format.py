"""Formats of artifacts: a check, a size, and a writer that takes a model block by block."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch

from phi3quant.disk.ordered_writer import Completable
from phi3quant.model.config import Phi3Config
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.tensor import Quantized
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredModel

Source: TypeAlias = OpenedModel[StoredModel]
"""Model that an artifact is made from."""

MANIFEST_PREFIX = "phi3quant."
"""Prefix of the metadata keys that hold a manifest inside a file."""


class ModelWriter(Completable, Protocol):
    """Writer of a quantized model, which receives its parts in order."""

    @property
    def hashed(self) -> Mapping[str, Mapping[str, Any]]:
        """Entries of hashed_file.describe_file for files that were hashed while they were written.

        They are complete once the writer is.
        """

    def embedding(self, weight: torch.Tensor | Quantized) -> None:
        """Write the token embeddings, floats or codes [vocab, hidden]; called first."""

    def block(self, index: int, block: QuantizedBlock) -> None:
        """Write the next decoder block."""

    def final(self, norm: torch.Tensor, head: torch.Tensor | Quantized | None) -> None:
        """Write the last norm [hidden] and an untied head [vocab, hidden]; called last."""


class TensorWriter(ModelWriter, Protocol):
    """Writer that also accepts blocks that were not quantized by a method."""

    def tensors(self, index: int, block: Mapping[str, torch.Tensor | Quantized]) -> None:
        """Write the next decoder block, given its tensors by short name."""


@dataclass(frozen=True)
class Format:
    """A kind of artifact.

    Attributes:
        name: name on the command line.
        title: name in messages.
        check: raises SchemeError if the format can't hold these schemes for this model; called
            before any work.
        nbytes: size of the weights on disk.
        open: creates a writer into a folder.
        embed: puts a manifest's strings (provenance.manifest.flat) into the finished files of a
            folder, for formats whose files are copied on their own. Returns the entries of
            hashed_file.describe_file for the files whose hashes are already known.
        real_offsets: whether asymmetric groups are stored with an FP16 offset, which need not be a
            multiple of the scale.
    """

    name: str
    title: str
    check: Callable[[MatrixSchemes, Phi3Config], None]
    nbytes: Callable[[Phi3Config, MatrixSchemes], int]
    open: Callable[[Path, Source, MatrixSchemes], ModelWriter]
    embed: Callable[[Path, Mapping[str, str]], Mapping[str, Mapping[str, Any]]] | None = None
    real_offsets: bool = False
