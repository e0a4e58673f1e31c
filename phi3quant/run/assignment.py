"""Assignments of the members of a team, and the interface of what forms teams."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import torch

from calib.share import Share
from phi3quant.model.config import Phi3Config
from phi3quant.quant.codecs.row_parts import rows_are_exact
from phi3quant.run import memory_budget
from phi3quant.run.recipe import Recipe
from phi3quant.run.shared_work import SharedWork
from phi3quant.run.window_counts import held_back_windows
from phi3quant.source.locate import Located
from phi3quant.team import Team


@dataclass(frozen=True)
class Assignment:
    """Everything that a member needs for its part of a run.

    Attributes:
        model: the model, which all members read from the same path.
        recipe: recipe with all types chosen.
        ids: calibration windows, int64 [windows, length].
        splits_rows: see phi3quant.team.Team; by default as trials on this CPU allow it.
    """

    model: Located
    recipe: Recipe
    ids: torch.Tensor
    splits_rows: bool = field(default_factory=rows_are_exact)

    def memory(self, config: Phi3Config, members: int) -> int:
        """Bytes of memory of a member, with its hidden states."""
        windows, length = self.ids.shape
        rounds = -(-Share(windows, length).batches // members)
        own = min(windows, rounds * Share(windows, length).batch + held_back_windows(windows))
        need = memory_budget.needs(
            config, memory_budget.Calibrated(own, length, self.recipe.compensate)
        )
        return need.memory + need.states


class Teams(Protocol):
    """Former of teams."""

    def prepare(self, located: Located, shared: SharedWork) -> None:
        """Compare all machines before work starts.

        Raises:
            ClusterError: machines differ, or there are too few.
        """

    def formed(self, assignment: Assignment, config: Phi3Config) -> AbstractContextManager[Team]:
        """Form a team of this process, which is member 0, and others that ``take_part``.

        Raises:
            ClusterError: there are too few machines.
            MemberLostError: a member has died.
        """
