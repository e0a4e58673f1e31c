"""Quantization by a team; if a member dies, a new team does the current block again."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from phi3quant.errors import ClusterError, MemberLostError, SchemeError
from phi3quant.model.config import Phi3Config
from phi3quant.model.device import CPU, computing_on
from phi3quant.progress import Progress, silent
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.methods import METHODS
from phi3quant.quant.tensor import Quantized
from phi3quant.run.assignment import Assignment, Teams
from phi3quant.run.blocks import Receiver, Work, quantize_blocks
from phi3quant.run.journal import Journal
from phi3quant.run.recipe import Recipe
from phi3quant.run.shared_work import SharedWork
from phi3quant.source.checkpoint import Checkpoint
from phi3quant.team import Team

# Teams in a row that may fail without finishing a block.
_TRIES = 3


def check_shareable(recipe: Recipe, device: torch.device) -> None:
    """Refuse what a team can't share.

    Args:
        recipe: the recipe.
        device: device to compute on.

    Raises:
        SchemeError: there is a choice that one machine has to compute; the message names it.
    """
    reasons = (
        (
            not METHODS[recipe.method].calibrated,
            f"{recipe.method} doesn't calibrate, so there is no work to share; choose awq or gptq",
        ),
        (
            recipe.tuning is not None,
            "--tune runs on one machine; tune the result afterwards with phi3quant tune",
        ),
        (
            recipe.target_bpw is not None,
            "--target-bpw measures losses on one machine; choose types with --tensor-type",
        ),
        (device.type != "cpu", f"{device} can't share its work with others; pass --device cpu"),
    )
    for refused, reason in reasons:
        if refused:
            raise SchemeError(f"{reason}, or leave --ray out")


def check_head(recipe: Recipe, config: Phi3Config) -> None:
    """Refuse an output matrix whose codes are chosen on one machine.

    Raises:
        SchemeError: the output matrix has 4 bits.
    """
    if recipe.head_codec(config) is not None:
        raise SchemeError(
            "one machine chooses the codes of a Q4_0 output matrix; choose another type for it, "
            "or leave --ray out"
        )


def take_part(assignment: Assignment, team: Team) -> None:
    """Quantize all blocks as a member that doesn't write them.

    Raises:
        Phi3QuantError: see phi3quant.errors.
    """
    checkpoint = SharedWork().opened(assignment.model).model
    recipe, config = assignment.recipe, checkpoint.config
    work = Work(
        METHODS[recipe.method],
        recipe.codecs(config),
        recipe.compensate,
        assignment.ids,
        team=team,
    )
    with computing_on(CPU):
        quantize_blocks(checkpoint, work, (), silent)


def quantize_in_teams(
    teams: Teams,
    assignment: Assignment,
    checkpoint: Checkpoint,
    work: Work,
    writers: Sequence[Receiver],
    progress: Progress,
    journal: Journal,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Quantize a checkpoint in a team; see quantize_blocks.

    If a member dies, a new team starts after the finished blocks.

    Args:
        teams: former of teams.
        assignment: what the other members need.
        checkpoint: source.
        work: treatment of each block.
        writers: writers, which receive the parts in order.
        progress: display of the blocks.
        journal: finished blocks.
        say: receives lines for the user.

    Raises:
        ClusterError: teams fail without finishing a block.
    """
    once = [_Once(writer) for writer in writers]
    failures = 0
    while True:
        before = journal.finished
        try:
            with teams.formed(assignment, checkpoint.config) as team:
                shared = replace(work, team=team)
                return quantize_blocks(checkpoint, shared, once, progress, journal)
        except MemberLostError as error:
            failures = 0 if journal.finished > before else failures + 1
            if failures == _TRIES:
                raise ClusterError(
                    f"{error}; the run ends after {_TRIES} failures in a row at block "
                    f"{journal.finished}. Check the machines, and pass --resume to continue"
                ) from None
            say(f"{error}; a new team does block {journal.finished} again")


class _Once:
    """A writer to which parts that it has already are passed again; implements Receiver."""

    def __init__(self, writer: Receiver) -> None:
        self._writer = writer
        self._started = False
        self._blocks = 0

    def embedding(self, weight: torch.Tensor | Quantized) -> None:
        """See ModelWriter."""
        if not self._started:
            self._writer.embedding(weight)
            self._started = True

    def block(self, index: int, block: QuantizedBlock) -> None:
        """See ModelWriter."""
        if index == self._blocks:
            self._writer.block(index, block)
            self._blocks += 1

    def final(self, norm: torch.Tensor, head: torch.Tensor | Quantized | None) -> None:
        """See ModelWriter."""
        self._writer.final(norm, head)
