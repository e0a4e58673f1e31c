"""What a format is: a check, a size, and a writer that takes a model block by block."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch

from phi3quant.disk.ordered_writer import Completable
from phi3quant.model.config import Phi3Config
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import Quantized
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredWeights

Source: TypeAlias = OpenedModel[StoredWeights]
"""The model that an artifact is made from."""

MANIFEST_PREFIX = "phi3quant."
"""Start of the keys under which files carry a manifest inside."""


class ModelWriter(Completable, Protocol):
    """Takes a quantized model's parts in order."""

    @property
    def hashed(self) -> Mapping[str, Mapping[str, Any]]:
        """Entries of hashed_file.describe_file for files that were hashed while written.

        All of them once the writer is completed.
        """

    def embedding(self, weight: torch.Tensor) -> None:
        """The token embeddings, FP32 [vocab, hidden]; first."""

    def block(self, index: int, block: QuantizedBlock) -> None:
        """The next decoder block."""

    def final(self, norm: torch.Tensor, head: torch.Tensor | None) -> None:
        """The last norm [hidden] and, of an untied model, the head [vocab, hidden]; last."""


class TensorWriter(ModelWriter, Protocol):
    """Takes blocks that no method has made, too."""

    def tensors(self, index: int, block: Mapping[str, torch.Tensor | Quantized]) -> None:
        """The next decoder block, from its tensors by their short names."""


@dataclass(frozen=True)
class Format:
    """A kind of artifact.

    Attributes:
        name: on the command line.
        title: in messages.
        check: raises SchemeError if the format can't hold this scheme for this model; called
            before any work.
        nbytes: size of the weights on disk.
        open: a writer into a folder.
        embed: puts a manifest's strings (provenance.manifest.flat) into the finished files of a
            folder, for formats whose files travel alone. Returns the entries of
            hashed_file.describe_file for files that needn't be read again.
    """

    name: str
    title: str
    check: Callable[[QuantScheme, Phi3Config], None]
    nbytes: Callable[[Phi3Config, QuantScheme], int]
    open: Callable[[Path, Source, QuantScheme], ModelWriter]
    embed: Callable[[Path, Mapping[str, str]], Mapping[str, Mapping[str, Any]]] | None = None
