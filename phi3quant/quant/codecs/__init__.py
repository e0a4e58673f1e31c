"""Weight codecs, one a file: what methods search with and choose codes by."""

from collections.abc import Mapping
from typing import Protocol

import torch

from phi3quant.quant.gram import Gram
from phi3quant.quant.tensor import Quantized


class Codec(Protocol):
    """A way to store a matrix in few bits."""

    def group_width(self, columns: int) -> int:
        """Weights that share a scale in a row of ``columns``.

        Raises:
            SchemeError: such rows can't be stored.
        """

    def quantize(self, weight: torch.Tensor) -> Quantized:
        """Quantize FP32 [rows, columns] for what the weights are alone."""

    def quantize_fitted(self, weight: torch.Tensor, gram: Gram) -> Quantized:
        """Quantize FP32 [rows, columns] for the least output error."""

    def quantize_compensated(
        self, weight: torch.Tensor, gram: Gram, shortfall: torch.Tensor | None = None
    ) -> Quantized | None:
        """As quantize_fitted, where later codes of a row make up for the errors of earlier ones.

        Args:
            weight: FP32 [rows, columns].
            gram: of the input x.
            shortfall: FP32 [rows, columns], the mean of (wanted output - weight x) x^T over tokens:
                what the weights themselves should make up for.

        Returns:
            None: the codec can't.
        """

    def round_trip(self, weight: torch.Tensor) -> torch.Tensor:
        """What remains of ``weight`` after ``quantize``, FP32; cheap, for ranking candidates."""


Codecs = Mapping[str, Codec]
"""The codec of each linear of a block (layout.LINEARS)."""
