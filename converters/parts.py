"""Stored parts of a model of any format: codes where it has them, and floats."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from phi3quant.errors import SchemeError
from phi3quant.model.architecture import BLOCK_TENSORS, EMBEDDING, HEAD, LINEARS, block_tensor_name
from phi3quant.quant.codecs import affine
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import Quantized, QuantizedTensor
from phi3quant.source.checkpoint import SafetensorsModel

StoredBlock = Mapping[str, torch.Tensor | Quantized]
"""Tensors of a block by short name: norms FP32, matrices as codes or as floats of any type."""


@dataclass(frozen=True)
class Parts:
    """Parts of a model in the order in which writers receive them; each is read when it is called.

    Attributes:
        schemes: schemes of the codes of all matrices; None if the matrices are plain, or if no
            schemes describe them.
        embedding: reads the token embeddings, floats of any type or codes [vocab, hidden].
        block: reads a block by its index.
        final_norm: reads the last norm, FP32 [hidden].
        head: reads the head, which a tied model shares with the embedding.
        unfit: why formats other than the model's own can't store its codes; empty if they can.
        offsets: why formats with zero points can't store its codes; empty if they can.
    """

    schemes: MatrixSchemes | None
    embedding: Callable[[], torch.Tensor | Quantized]
    block: Callable[[int], StoredBlock]
    final_norm: Callable[[], torch.Tensor]
    head: Callable[[], torch.Tensor | Quantized]
    unfit: str = ""
    offsets: str = ""

    @property
    def quantized(self) -> bool:
        """Whether matrices are stored as codes."""
        return self.schemes is not None or bool(self.unfit)

    def check_codes(self, *, real_offsets: bool = False) -> None:
        """Refuse codes that another format can't store.

        Args:
            real_offsets: whether the format stores offsets in place of zero points.

        Raises:
            SchemeError: there are such codes.
        """
        reason = self.unfit or ("" if real_offsets else self.offsets)
        if reason:
            raise SchemeError(f"{reason}, or add --requantize to round them again")


def safetensors_parts(
    model: SafetensorsModel,
    schemes: MatrixSchemes | None,
    linear: Callable[[int, str], torch.Tensor | Quantized],
    unfit: str = "",
    offsets: str = "",
) -> Parts:
    """Parts of a folder of safetensors.

    Writers check that plain matrices are finite while they convert them.

    Args:
        model: the folder.
        schemes: see Parts.
        linear: reads a matrix by the index of its block and its short name.
        unfit: see Parts.
        offsets: see Parts.
    """
    store, config = model.store, model.config

    def block(index: int) -> StoredBlock:
        return {
            key: linear(index, key)
            if key in LINEARS
            else store.load_finite(block_tensor_name(index, key))
            for key in BLOCK_TENSORS
        }

    head = EMBEDDING if config.tie_word_embeddings else HEAD
    return Parts(
        schemes,
        partial(model.stored, EMBEDDING),
        block,
        model.final_norm,
        partial(model.stored, head),
        unfit,
        offsets,
    )


def dequantized(parts: Parts) -> Parts:
    """The same model with plain matrices, FP32."""

    def block(index: int) -> StoredBlock:
        return {key: _plain(tensor) for key, tensor in parts.block(index).items()}

    return replace(parts, schemes=None, block=block, unfit="", offsets="")


def requantized(parts: Parts, scheme: QuantScheme) -> Parts:
    """The same model with the codes of other schemes rounded to the nearest codes of ``scheme``."""

    def block(index: int) -> StoredBlock:
        stored = parts.block(index)
        return {
            key: _rounded(tensor, scheme) if key in LINEARS else tensor
            for key, tensor in stored.items()
        }

    return replace(parts, schemes=MatrixSchemes(scheme), block=block, unfit="", offsets="")


def _rounded(tensor: torch.Tensor | Quantized, scheme: QuantScheme) -> Quantized:
    if isinstance(tensor, QuantizedTensor) and tensor.scheme == scheme:
        return tensor
    return affine.quantize(_plain(tensor).float(), scheme)


def _plain(tensor: torch.Tensor | Quantized) -> torch.Tensor:
    return tensor if isinstance(tensor, torch.Tensor) else tensor.dequantize()
