"""Hub of a team: the actor that passes references to parcels from each member to all."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class _Round:
    """Parcels of one exchange, and whether all members have come."""

    parcels: dict[int, Sequence[Any]] = field(default_factory=dict)
    full: asyncio.Event = field(default_factory=asyncio.Event)


class Hub:
    """Meeting point of the members; runs as an actor of Ray."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._rounds: dict[int, _Round] = {}

    async def meet(self, number: int, rank: int, parcels: Sequence[Any]) -> list[Sequence[Any]]:
        """Wait for all members; returns their parcels by rank.

        Args:
            number: number of the exchange.
            rank: rank of the member.
            parcels: plain values, and references to objects in the store.
        """
        here = self._rounds.setdefault(number, _Round())
        here.parcels[rank] = parcels
        if len(here.parcels) == self._size:
            # Whoever comes here has taken everything from the exchange before.
            self._rounds.pop(number - 1, None)
            here.full.set()
        await here.full.wait()
        return [here.parcels[member] for member in range(self._size)]
