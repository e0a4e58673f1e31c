"""Teams: processes that quantize one model together, each with a part of the work.

All members run the same program in lockstep. They differ only in which windows, matrices and rows
they compute, and exchange the results. Each piece of work is the same operation on the same
numbers whoever does it, so the bytes of the result don't depend on the size of the team.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

# Rows of a matrix that stay together, except that the last member has the remaining ones too.
_ROWS = 64


class Team(Protocol):
    """A member's view of its team."""

    @property
    def rank(self) -> int:
        """Number of this member, from 0."""

    @property
    def size(self) -> int:
        """Number of members."""

    @property
    def splits_rows(self) -> bool:
        """Whether members compute different rows of a matrix; otherwise each computes all."""

    def gather(self, parcels: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """Exchange parcels with all members.

        All members call this in the same order, and go through all results before the next call.

        Args:
            parcels: tensors, dataclasses of tensors, or plain values of this member.

        Yields:
            Parcels of each member, by rank. A parcel travels when it is accessed.

        Raises:
            MemberLostError: a member has died.
        """


class _Alone:
    """A team of one; implements Team."""

    rank = 0
    size = 1
    splits_rows = False

    def gather(self, parcels: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """See Team."""
        yield parcels


ALONE: Team = _Alone()
"""The team of a run on one machine."""


def broadcast(team: Team, value: Item) -> Item:
    """Value of member 0, for all."""
    first: Item = _taken(team, [value] if team.rank == 0 else [])[0][0]
    return first


def complete(team: Team, pieces: Sequence[tuple[int, torch.Tensor]]) -> None:
    """Fill pieces of tensors that other members have computed.

    Args:
        team: the team.
        pieces: rank of the member that has computed a piece, and its place.
    """
    by_rank: list[list[torch.Tensor]] = [[] for _ in range(team.size)]
    for rank, piece in pieces:
        by_rank[rank].append(piece)
    for rank, parcels in enumerate(team.gather(by_rank[team.rank])):
        if rank != team.rank:
            for number, piece in enumerate(by_rank[rank]):
                piece.copy_(parcels[number])


def shared(
    team: Team,
    items: Sequence[Item],
    work: Callable[[Item], Result],
    costs: Sequence[float] | None = None,
) -> list[Result]:
    """Do independent pieces of work, each on one member.

    Args:
        team: the team.
        items: pieces of work.
        work: computes the result of a piece.
        costs: relative durations; None if they are alike.

    Returns:
        All results, in order of the items.
    """
    ranks = owners(costs or [1.0] * len(items), team.size)
    computed = [work(item) for item, rank in zip(items, ranks, strict=True) if rank == team.rank]
    results = [iter(each) for each in _taken(team, computed)]
    return [next(results[rank]) for rank in ranks]


def owners(costs: Sequence[float], size: int) -> list[int]:
    """Rank of the member that does each piece of work: the largest first, to the least busy.

    Examples:
        >>> owners([1, 3, 2, 1], 2)
        [1, 0, 1, 0]
    """
    ranks, busy = [0] * len(costs), [0.0] * size
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        ranks[place] = min(range(size), key=busy.__getitem__)
        busy[ranks[place]] += costs[place]
    return ranks


def rows_of(team: Team, rows: int) -> slice:
    """Rows of a matrix that this member computes: none, or at least 64 if there are as many."""
    return part_of(team.rank, team.size, rows) if team.splits_rows else slice(0, rows)


def part_of(rank: int, size: int, rows: int) -> slice:
    """Rows of member ``rank`` out of ``size``."""
    # Solutions for fewer rows come from other kernels on some CPUs.
    units = max(1, rows // _ROWS)
    start, stop = (units * member // size * _ROWS for member in (rank, rank + 1))
    return slice(start, rows if rank == size - 1 else stop)


def _taken(team: Team, parcels: Sequence[Any]) -> list[list[Any]]:
    """All parcels of all members."""
    return [list(each) for each in team.gather(parcels)]
