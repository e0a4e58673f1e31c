"""Weight codecs: conversion of matrices into codes, for the methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    # Processes that only compile kernels (compile_ahead.py) start without torch.
    import torch

    from phi3quant.quant.gram import Gram
    from phi3quant.quant.tensor import Quantized


class Codec(Protocol):
    """A way to store a matrix in few bits per weight."""

    def group_width(self, columns: int) -> int:
        """Number of weights that share a scale in a row of ``columns`` weights.

        Raises:
            SchemeError: rows of this length can't be stored.
        """

    def quantize(self, weight: torch.Tensor) -> Quantized:
        """Quantize FP32 [rows, columns] for the least error of the weights themselves."""

    def quantize_fitted(self, weight: torch.Tensor, gram: Gram) -> Quantized:
        """Quantize FP32 [rows, columns] for the least output error on inputs with ``gram``."""

    def quantize_compensated(
        self, weight: torch.Tensor, gram: Gram, shortfall: torch.Tensor | None = None
    ) -> Quantized | None:
        """Quantize for the least output error with compensation.

        Later codes of a row compensate the errors of earlier ones (GPTQ).

        Args:
            weight: FP32 [rows, columns].
            gram: statistics of the input x.
            shortfall: FP32 [rows, columns], the mean of (target output - weight x) x^T over
                tokens; the weights are corrected by it first.

        Returns:
            The quantized matrix; None if the codec doesn't support compensation.
        """

    def round_trip(self, weight: torch.Tensor) -> torch.Tensor:
        """``weight`` after ``quantize`` and ``dequantize``, FP32 [rows, columns].

        Cheaper than both calls, for ranking candidates.
        """


Codecs = Mapping[str, Codec]
"""Codec of each linear of a block, by its name in architecture.LINEARS."""
