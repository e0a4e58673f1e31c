"""Changes that adapters make to a matrix: low-rank sums, and replacements."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

Read = Callable[[], torch.Tensor]
"""Reader of a stored tensor as FP32."""


@dataclass(frozen=True)
class LowRank:
    """A low-rank matrix that is added to rows of a weight (LoRA), with new norms for DoRA.

    LoRA (Hu et al., 2021) adds ``scaling * B A``. DoRA (Liu et al., 2024) then scales every row to
    the norm in ``magnitude``.

    Attributes:
        rows: rows of the weight that change.
        left: reads B [rows, rank].
        right: reads A [rank, columns].
        scaling: factor of the product.
        magnitude: reads the norms of the rows [rows]; None for LoRA.
    """

    rows: slice
    left: Read
    right: Read
    scaling: float
    magnitude: Read | None = None

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        """Change an FP32 weight [rows, columns] in place, and return it."""
        part = weight[self.rows]
        part.addmm_(self.left(), self.right(), alpha=self.scaling)
        if self.magnitude is not None:
            part.mul_((self.magnitude() / part.norm(dim=1)).unsqueeze(1))
        return weight


@dataclass(frozen=True)
class Replacement:
    """A module that was trained as a whole (``modules_to_save``).

    Attributes:
        rows: rows of the weight that are replaced.
        values: reads the new rows.
    """

    rows: slice
    values: Read

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        """Change an FP32 weight in place, and return it."""
        weight[self.rows] = self.values()
        return weight
