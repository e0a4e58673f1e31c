"""Quantized decoder blocks: output of methods, input of writers."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from phi3quant.model.architecture import LINEARS, Block
from phi3quant.quant.tensor import Quantized


@dataclass(frozen=True)
class TensorLoss:
    """Output error of a quantized linear: mean square per token, summed over its outputs.

    Both values are in the units of the unfolded layer, so that methods can be compared.

    Attributes:
        rtn: error of rounding to nearest.
        chosen: error of the codes that the method chose.
    """

    rtn: float
    chosen: float


def rounded_norms(block: Block) -> dict[str, torch.Tensor]:
    """Norms of a block, each after ``rounded_norm``."""
    return {key: rounded_norm(value) for key, value in block.items() if key not in LINEARS}


def rounded_norm(norm: torch.Tensor) -> torch.Tensor:
    """FP32 values rounded to FP16, except those beyond its range, which stay unchanged.

    Formats that store norms as FP32 accept such values; other formats refuse them.
    """
    rounded = norm.half().float()
    return torch.where(torch.isfinite(rounded), rounded, norm)


@dataclass(frozen=True)
class QuantizedBlock:
    """A finished decoder block.

    Attributes:
        norms: FP32 [hidden] by short name, rounded to FP16 (see rounded_norms).
        linears: quantized matrices by their names in architecture.LINEARS.
        losses: loss by linear; empty for methods that don't measure it, such as RTN.
        folds: FP32 scales [channels] that were moved, by the fold's consumer; empty for methods
            without folds, such as RTN.
    """

    norms: Mapping[str, torch.Tensor]
    linears: Mapping[str, Quantized]
    losses: Mapping[str, TensorLoss]
    folds: Mapping[str, torch.Tensor]

    def dequantized(self) -> Block:
        """FP32 tensors of the block, as a reader of any format will use them."""
        return {**self.norms, **{name: q.dequantize() for name, q in self.linears.items()}}
