"""Division of work among the members of a team."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from calib.share import Share
from phi3quant.team import ALONE, broadcast, complete, owners, rows_of, shared


@dataclass(frozen=True)
class Seat:
    """A place in a team that exchanges nothing."""

    rank: int
    size: int
    splits_rows = True

    def gather(self, parcels: Sequence[Any]) -> Iterator[Sequence[Any]]:
        raise NotImplementedError


def test_a_team_of_one_keeps_its_values() -> None:
    value = torch.ones(3)
    assert broadcast(ALONE, value) is value
    assert shared(ALONE, [3, 1, 2], lambda item: item * 10) == [30, 10, 20]
    complete(ALONE, [(0, value)])
    assert rows_of(ALONE, 100) == slice(0, 100)


def test_large_work_goes_to_the_least_busy() -> None:
    assert owners([1.0, 1.0, 8.0, 3.0, 3.0], 3) == [1, 2, 0, 1, 2]
    assert owners([], 3) == []
    assert owners([5.0], 4) == [0]


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 192, 1000, 9216])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_parts_of_rows_cover_a_matrix(rows: int, size: int) -> None:
    parts = [rows_of(Seat(rank, size), rows) for rank in range(size)]
    assert [row for part in parts for row in range(rows)[part]] == list(range(rows))
    assert all(part.start % 64 == 0 for part in parts)
    assert all(
        len(range(rows)[part]) in range(min(rows, 64), rows + 1)
        for part in parts
        if part.start < part.stop
    )


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("first", [0, 1])
def test_batches_go_round_the_team(size: int, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calib.batches.BATCH_TOKENS", 30)
    windows = torch.arange(11)[:, None]
    shares = [Share(11, 10, Seat(rank, size), first % size) for rank in range(size)]
    batches = torch.split(windows, 3)
    for number, batch in enumerate(batches):
        share = shares[(number + first) % size]
        stored = torch.split(share.part(windows), 3)
        assert torch.equal(stored[number // size], batch)
    assert sum(share.own(share.batches) for share in shares) == len(batches) == 4
    assert {share.rounds(share.batches) for share in shares} == {-(-4 // size)}
    assert [shares[0].enough(tokens) for tokens in (1, 30, 31, 1000)] == [1, 1, 2, 4]
    assert [shares[0].tokens(count) for count in (1, 3, 4)] == [30, 90, 110]
