"""Shares of a team's members in the batches of calibration windows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from calib.batches import windows_per_batch
from phi3quant.team import ALONE, Team

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """Batches of windows of one member.

    Batches go round the team, and a member stores only the windows of its batches. They are the
    batches of a team of one.

    Attributes:
        windows: number of windows of all members.
        length: tokens per window.
        team: the team.
        first: rank of the member with the first batch.
    """

    windows: int
    length: int
    team: Team = ALONE
    first: int = 0

    @property
    def batch(self) -> int:
        """Windows in a batch; the last one may have fewer."""
        return windows_per_batch(self.length)

    @property
    def batches(self) -> int:
        """Number of batches of all members."""
        return -(-self.windows // self.batch)

    @property
    def _place(self) -> int:
        """Number of this member's first batch."""
        return (self.team.rank - self.first) % self.team.size

    def enough(self, tokens: int | None) -> int:
        """Number of batches, from the first, that reach this number of tokens; None: all."""
        if tokens is None:
            return self.batches
        return min(self.batches, -(-tokens // (self.batch * self.length)))

    def tokens(self, batches: int) -> int:
        """Number of tokens in the first batches."""
        return min(self.windows, batches * self.batch) * self.length

    def part(self, windows: torch.Tensor) -> torch.Tensor:
        """This member's windows out of all, [windows, ...]."""
        if self.team.size == 1:
            return windows
        parts = torch.split(windows, self.batch)[self._place :: self.team.size]
        return torch.cat(parts) if parts else windows[:0]

    def rounds(self, batches: int) -> int:
        """Number of rounds in which the first batches go round the team."""
        return -(-batches // self.team.size)

    def own(self, batches: int) -> int:
        """Number of this member's batches among the first of all members, one in each round."""
        return len(range(self._place, batches, self.team.size))

    def in_order(self, values: Sequence[Item]) -> list[Item]:
        """Values for all batches in their order, from those for each member's batches."""
        by_rank = [list(each) for each in self.team.gather(values)]
        size = self.team.size
        return [
            by_rank[(number + self.first) % size][number // size] for number in range(self.batches)
        ]
