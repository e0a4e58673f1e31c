"""Teams of threads, which work as teams of processes do, in less time."""

import contextlib
import copy
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import is_dataclass, replace
from typing import Any

import numpy as np
import torch

from phi3quant.errors import MemberLostError
from phi3quant.model.config import Phi3Config
from phi3quant.run.assignment import Assignment
from phi3quant.run.shared_work import SharedWork
from phi3quant.run.teams import take_part
from phi3quant.source.locate import Located
from phi3quant.team import Team


class Table:
    """Place where the members of a team meet, until one of them fails."""

    def __init__(self, size: int, death: int | None) -> None:
        self.barrier = threading.Barrier(size)
        self.parcels: list[Sequence[Any]] = [()] * size
        self.exchanges = 0
        self.received: list[int] = []
        self.death = death


class ThreadTeam:
    """A member that is a thread; implements phi3quant.team.Team."""

    def __init__(self, table: Table, rank: int, *, splits_rows: bool) -> None:
        self._table = table
        self.splits_rows = splits_rows
        self.rank = rank
        self.size = len(table.parcels)

    def gather(self, parcels: Sequence[Any]) -> Iterator[Sequence[Any]]:
        table = self._table
        # A member may change its tensors while others still read what it has sent.
        table.parcels[self.rank] = copy.deepcopy(parcels)
        if self.rank == self.size - 1:
            table.exchanges += 1
            if table.exchanges == table.death:
                raise SystemExit
        table.barrier.wait()
        received = list(table.parcels)
        table.barrier.wait()
        for rank, each in enumerate(received):
            yield parcels if rank == self.rank else Received(each, table)


class Received(Sequence[Any]):
    """Parcels of another member; counts the bytes of those that are accessed."""

    def __init__(self, parcels: Sequence[Any], table: Table) -> None:
        self._parcels = parcels
        self._table = table

    def __len__(self) -> int:
        return len(self._parcels)

    def __getitem__(self, place: Any) -> Any:
        self._table.received.append(_nbytes(self._parcels[place]))
        return self._parcels[place]


class ThreadTeams:
    """Former of teams of threads; implements phi3quant.run.assignment.Teams.

    Attributes:
        exchanges: number of exchanges of each team.
        received: bytes that all members of each team have received.
    """

    def __init__(
        self, *sizes: int, deaths: Sequence[int] = (), splits_rows: bool | None = None
    ) -> None:
        """Form teams.

        Args:
            sizes: sizes of the teams.
            deaths: exchanges at which the last member of the first teams dies.
            splits_rows: see Team; None: as the CPU allows it.
        """
        self._splits_rows = splits_rows
        self._sizes = list(sizes)
        self._deaths = list(deaths)
        self.exchanges: list[int] = []
        self.received: list[int] = []

    def prepare(self, located: Located, shared: SharedWork) -> None:
        pass

    @contextlib.contextmanager
    def formed(self, assignment: Assignment, _config: Phi3Config) -> Iterator[Team]:
        size = self._sizes.pop(0)
        if self._splits_rows is not None:
            assignment = replace(assignment, splits_rows=self._splits_rows)
        table = Table(size, self._deaths.pop(0) if self._deaths else None)
        with ThreadPoolExecutor(size) as pool:
            others = [pool.submit(_member, table, assignment, rank) for rank in range(1, size)]
            try:
                yield ThreadTeam(table, 0, splits_rows=assignment.splits_rows)
            except threading.BrokenBarrierError:
                raise _cause(others) from None
            except BaseException:
                table.barrier.abort()
                raise
            finally:
                self.exchanges.append(table.exchanges)
                self.received.append(sum(table.received))
        for other in others:
            other.result()


def _member(table: Table, assignment: Assignment, rank: int) -> None:
    try:
        take_part(assignment, ThreadTeam(table, rank, splits_rows=assignment.splits_rows))
    except BaseException:
        table.barrier.abort()
        raise


def _cause(others: Sequence[Future[None]]) -> BaseException:
    """The error that ended a team."""
    errors = [error for error in map(Future.exception, others) if error is not None]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError | SystemExit):
            return error
    return MemberLostError("a worker has died")


def _nbytes(parcel: Any) -> int:
    if isinstance(parcel, torch.Tensor | np.ndarray):
        return parcel.nbytes
    if isinstance(parcel, tuple):
        return sum(map(_nbytes, parcel))
    return sum(map(_nbytes, vars(parcel).values())) if is_dataclass(parcel) else 0
