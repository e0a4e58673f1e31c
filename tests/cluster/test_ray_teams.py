"""One model by a team on Ray: the bytes of one process, whatever dies in the meantime."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from phi3quant.cluster import ray_teams as ray_teams_
from phi3quant.cluster.ray_teams import ray_teams
from phi3quant.errors import ClusterError, MemberLostError
from phi3quant.run.calibration import Calibration
from phi3quant.run.conduct import Conduct
from phi3quant.run.journal import Journal
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.killing import hashes
from tests.ray_cluster import cluster_of_nodes, node_of

ray = pytest.importorskip("ray", reason="the extra cluster isn't installed")

RECIPE = Recipe("awq", calibration=Calibration(samples=24, length=512))
_PATIENCE = 120


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Hashes of the result of one process."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    quantize("phi3-tiny", folder, RECIPE)
    torch.set_num_threads(before)
    return hashes(folder)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Any]]:
    """See cluster_of_nodes."""
    with cluster_of_nodes(monkeypatch) as start:
        yield start


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Processes of the workers of each team that starts."""
    teams: list[list[int]] = []
    started = ray_teams_._Workers.wait_until_started

    def wait(workers: Any) -> None:
        started(workers)
        teams.append(ray.get([worker.alive.remote() for worker in workers.handles]))

    monkeypatch.setattr(ray_teams_._Workers, "wait_until_started", wait)
    return teams


def when_blocks_are_finished(out: Path, act: Callable[[], None]) -> threading.Thread:
    """Call ``act`` as soon as a run has finished a block."""
    journal = Journal(out, out.parent / f".{out.name}.unfinished")

    def wait() -> None:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if journal.finished:
                act()
                return
            time.sleep(0.02)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def run(out: Path, said: list[str] | None = None, workers: int | None = None) -> dict[str, str]:
    """Hashes of the result of a team."""
    with ray_teams("auto", workers) as teams:
        say = (said if said is not None else []).append
        quantize("phi3-tiny", out, RECIPE, conduct=Conduct(teams=teams, say=say))
    return hashes(out)


def test_two_nodes_give_the_bytes_of_one_process(
    cluster: Callable[[int], Any], alone: dict[str, str], processes: list[list[int]], tmp_path: Path
) -> None:
    cluster(2)
    assert run(tmp_path / "three") == alone
    assert run(tmp_path / "two", workers=2) == alone
    assert [len(team) for team in processes] == [2, 1]
    with pytest.raises(ClusterError, match="room for 3 workers of 1 thread"):
        run(tmp_path / "four", workers=4)


def test_a_killed_worker_loses_nothing(
    cluster: Callable[[int], Any], alone: dict[str, str], processes: list[list[int]], tmp_path: Path
) -> None:
    cluster(2)
    said: list[str] = []
    thread = when_blocks_are_finished(
        tmp_path / "out", lambda: os.kill(processes[0][0], signal.SIGKILL)
    )
    assert run(tmp_path / "out", said) == alone
    thread.join()
    assert [len(team) for team in processes] == [2, 2]
    assert any("has died" in line and "does block" in line for line in said)


def test_a_removed_node_loses_nothing(
    cluster: Callable[[int], Any], alone: dict[str, str], processes: list[list[int]], tmp_path: Path
) -> None:
    nodes = cluster(2)

    def remove() -> None:
        nodes.remove_node(node_of(nodes, processes[0][1]), allow_graceful=False)

    thread = when_blocks_are_finished(tmp_path / "out", remove)
    assert run(tmp_path / "out") == alone
    thread.join()
    assert [len(team) for team in processes] == [2, 1]


def test_an_interruption_stops_all_workers_and_the_run_continues(
    cluster: Callable[[int], Any],
    alone: dict[str, str],
    processes: list[list[int]],
    tmp_path: Path,
) -> None:
    cluster(2)
    thread = when_blocks_are_finished(tmp_path / "out", lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out")
    thread.join()
    deadline = time.monotonic() + _PATIENCE
    while any(Path(f"/proc/{process}").exists() for process in processes[0]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    torch.set_num_threads(1)
    quantize("phi3-tiny", tmp_path / "out", RECIPE, conduct=Conduct(resume=True))
    assert hashes(tmp_path / "out") == alone


def test_a_stopped_worker_is_given_up(
    cluster: Callable[[int], Any],
    alone: dict[str, str],
    processes: list[list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster(2)
    monkeypatch.setattr(ray_teams_, "_ASKING", 1.0)
    monkeypatch.setattr(ray_teams_, "_ANSWERING", 8.0)
    said: list[str] = []
    thread = when_blocks_are_finished(
        tmp_path / "out", lambda: os.kill(processes[0][0], signal.SIGSTOP)
    )
    assert run(tmp_path / "out", said) == alone
    thread.join()
    assert any("hasn't answered" in line for line in said)


def test_workers_that_cannot_start_end_the_run(
    cluster: Callable[[int], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_workers: Any) -> None:
        raise MemberLostError("a worker didn't start")

    cluster(1)
    monkeypatch.setattr(ray_teams_._Workers, "wait_until_started", fail)
    with pytest.raises(ClusterError, match="failures in a row at block 0"):
        run(tmp_path / "out")
    assert not list(tmp_path.iterdir())
