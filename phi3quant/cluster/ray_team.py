"""Members of a team as workers of Ray."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import torch

from phi3quant.cluster import parcels as parcels_
from phi3quant.cluster.connection import reason
from phi3quant.errors import MemberLostError
from phi3quant.run.assignment import Assignment
from phi3quant.run.teams import take_part

# Seconds between looks at the other members while waiting.
_LOOK = 1.0


class RayTeam:
    """This process' view of a team on Ray; implements phi3quant.team.Team."""

    def __init__(
        self,
        ray: Any,
        hub: Any,
        rank: int,
        size: int,
        look: Callable[[], None] = lambda: None,
        *,
        splits_rows: bool,
    ) -> None:
        """Join a team.

        Args:
            ray: the module.
            hub: handle of the team's Hub.
            rank: rank of this member.
            size: number of members.
            look: raises an error if a member has died; called while waiting.
            splits_rows: see Team.
        """
        self.rank = rank
        self.size = size
        self.splits_rows = splits_rows
        self._ray = ray
        self._hub = hub
        self._look = look
        self._number = 0
        self._sent: list[Any] = []

    def gather(self, parcels: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """See Team."""
        stored = [each if _is_plain(each) else self._ray.put(each) for each in parcels]
        meeting = self._hub.meet.remote(self._number, self.rank, stored)
        self._number += 1
        every = self._result(meeting)
        # All members have come here, so nobody needs the parcels before these.
        self._sent = stored
        for rank in range(self.size):
            yield parcels if rank == self.rank else _Received(every[rank], self._fetched)

    def _fetched(self, parcel: Any) -> Any:
        return self._result(parcel) if isinstance(parcel, self._ray.ObjectRef) else parcel

    def _result(self, reference: Any) -> Any:
        while not self._ray.wait([reference], timeout=_LOOK)[0]:
            self._look()
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            # The cause may be an error of a member that has a message for the user.
            self._look()
            raise MemberLostError(f"a worker of the team has died ({reason(error)})") from None


class _Received(Sequence[Any]):
    """Parcels of another member, which are fetched when they are accessed."""

    def __init__(self, stored: Sequence[Any], fetch: Callable[[Any], Any]) -> None:
        self._stored = stored
        self._fetch = fetch

    def __len__(self) -> int:
        return len(self._stored)

    @overload
    def __getitem__(self, place: int) -> Any: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Any]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self._fetch(each) for each in self._stored[place]]
        return self._fetch(self._stored[place])


class Worker:
    """A member on another node; runs as an actor of Ray."""

    def __init__(self, folder: str) -> None:
        os.chdir(folder)

    def alive(self) -> int:
        """Number of the process."""
        return os.getpid()

    def work(self, assignment: Assignment, hub: Any, rank: int, size: int, threads: int) -> None:
        """Do this member's part of a run.

        Raises:
            Phi3QuantError: see phi3quant.errors.
        """
        import ray  # noqa: PLC0415 - an extra

        torch.set_num_threads(threads)
        parcels_.register(ray)
        take_part(assignment, RayTeam(ray, hub, rank, size, splits_rows=assignment.splits_rows))


def _is_plain(value: Any) -> bool:
    """Whether a value is small enough to go through the hub."""
    return value is None or isinstance(value, bool | int | float | str)
