"""A quantized decoder block: what a method makes and a writer takes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from phi3quant.model.architecture import LINEARS, Block
from phi3quant.quant.tensor import Quantized


@dataclass(frozen=True)
class TensorLoss:
    """Mean squared output error per calibration token of one linear, summed over its outputs.

    Measured in the units of the unfolded layer, so that methods compare.
    """

    rtn: float
    chosen: float


def rounded_norms(block: Block) -> dict[str, torch.Tensor]:
    """The norms of a block as ``rounded_norm`` leaves them."""
    return {key: rounded_norm(value) for key, value in block.items() if key not in LINEARS}


def rounded_norm(norm: torch.Tensor) -> torch.Tensor:
    """FP32 values rounded to FP16; those past its range stay as they are.

    Formats that store norms as FP32 keep the latter, the others refuse them.
    """
    rounded = norm.half().float()
    return torch.where(torch.isfinite(rounded), rounded, norm)


@dataclass(frozen=True)
class QuantizedBlock:
    """A finished decoder block.

    Attributes:
        norms: FP32, rounded to FP16 where it holds them (see rounded_norms), by short name.
        linears: codes under the names of layout.LINEARS.
        losses: per linear, for methods that measure; empty for RTN.
        folds: per fold, the scales [channels] that were moved; empty for RTN.
    """

    norms: Mapping[str, torch.Tensor]
    linears: Mapping[str, Quantized]
    losses: Mapping[str, TensorLoss]
    folds: Mapping[str, torch.Tensor]

    def dequantized(self) -> Block:
        """The block as a reader of any format will compute with it, FP32."""
        return {**self.norms, **{name: q.dequantize() for name, q in self.linears.items()}}
