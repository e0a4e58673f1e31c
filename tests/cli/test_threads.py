"""Number of threads, and how they wait."""

import os
import subprocess
import sys

import pytest
import torch

from phi3quant.cli import threads

WAITING = (
    "import os, sys\n"
    "sys.argv = ['phi3quant', '--version']\n"
    "from phi3quant.__main__ import run\n"
    "try:\n"
    "    run()\n"
    "finally:\n"
    "    print(os.environ.get('GOMP_SPINCOUNT'))\n"
)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of threads that were set."""
    numbers: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return numbers


@pytest.mark.parametrize(("allowed", "expected"), [(2, [2]), (64, [8]), (None, [])])
def test_a_container_limits_the_threads(
    allowed: int | None, expected: list[int], chosen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "processors", lambda: allowed)
    threads.use_threads(None)
    assert chosen == expected


def test_a_chosen_number_counts_more(chosen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "processors", lambda: 2)
    threads.use_threads(6)
    assert chosen == [6]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    threads.use_threads(None)
    assert chosen == [6]


@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, "None"),
    ],
)
def test_waiting_threads_sleep_soon_unless_the_environment_says_otherwise(
    given: dict[str, str], spins: str
) -> None:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    }
    done = subprocess.run(
        [sys.executable, "-c", WAITING],
        env={**kept, **given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split()[-1] == spins
