"""Sweeps on Ray: the same bytes as in one process, whatever dies in the meantime."""

import dataclasses
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from phi3quant.errors import ClusterError
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.run.calibration import Calibration
from phi3quant.run.recipe import Recipe
from phi3quant.sweep.conduct import sweep
from phi3quant.sweep.display import Silent
from phi3quant.sweep.folder import SweepFolder
from phi3quant.sweep.grid import Grid, GridRecipe, ModelEntry
from phi3quant.sweep.job import Job
from phi3quant.sweep.outcome import Outcome
from phi3quant.sweep.ray_jobs import RayRunner
from phi3quant.sweep.results import Results
from phi3quant.sweep.store import Store
from tests.ray_cluster import cluster_of_nodes, node_of
from tests.sweep.conftest import CPU
from tests.sweep.test_sweep import hashes, no_work

ray = pytest.importorskip("ray", reason="the extra cluster isn't installed")

THREADS = 1
_STARTED = re.compile(r"process (\d+)")
_PATIENCE = 120


@pytest.fixture(scope="module")
def tiny() -> Grid:
    """Two recipes that take seconds, and two that don't."""
    calibrated = [Recipe("awq", calibration=Calibration(samples=8, seed=seed)) for seed in (0, 1)]
    rounded = [Recipe("rtn"), Recipe("rtn", formats=("gguf",))]
    recipes = tuple(map(GridRecipe, [*calibrated, *rounded]))
    return Grid((ModelEntry("phi3-tiny"),), recipes, EvaluationText(max_tokens=1024))


@pytest.fixture(scope="module")
def alone(tiny: Grid, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The sweep in one process, with as many threads as a job on Ray has."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    results = sweep(tiny, tmp_path_factory.mktemp("alone") / "out", CPU)
    torch.set_num_threads(before)
    return results


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Any]]:
    """See cluster_of_nodes."""
    with cluster_of_nodes(monkeypatch) as start:
        yield start


def same(results: Results, alone: Results) -> bool:
    """Whether all artifacts have the same bytes, manifests included."""
    assert results.passed, results.missing
    return all(
        hashes(results.folder.artifact(job.key)) == hashes(alone.folder.artifact(job.key))
        for job in alone.plan.jobs
    )


def when_a_block_is_finished(folder: Path, act: Callable[[str], None]) -> threading.Thread:
    """Call ``act`` with the key of a job as soon as it has a finished block."""

    def wait() -> None:
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            for log in (folder / "logs").glob("*.log"):
                if SweepFolder(folder).finished_blocks(log.stem):
                    act(log.stem)
                    return
            time.sleep(0.02)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def process_of(folder: Path, key: str) -> int:
    return int(_STARTED.findall(SweepFolder(folder).log(key).read_text())[-1])


@pytest.mark.parametrize("nodes", [1, 2])
def test_any_number_of_nodes_gives_the_bytes_of_one_process(
    cluster: Callable[[int], Any], tiny: Grid, alone: Results, tmp_path: Path, nodes: int
) -> None:
    cluster(nodes)
    results = sweep(tiny, tmp_path / "out", CPU, runner=RayRunner("auto"))
    assert same(results, alone)
    assert len(list((tmp_path / "out" / "originals").glob("*.json"))) == 1


def test_results_of_workers_go_to_the_store(
    tiny: Grid, alone: Results, cluster: Callable[[int], Any], tmp_path: Path
) -> None:
    cluster(2)
    store = Store((tmp_path / "store").as_uri())
    assert same(sweep(tiny, tmp_path / "out", CPU, runner=RayRunner("auto"), store=store), alone)
    assert same(sweep(tiny, tmp_path / "there", CPU, runner=no_work, store=store), alone)


def test_a_killed_worker_loses_nothing(
    cluster: Callable[[int], Any], tiny: Grid, alone: Results, tmp_path: Path
) -> None:
    cluster(2)
    folder, killed = tmp_path / "out", []

    def kill(key: str) -> None:
        killed.append(key)
        os.kill(process_of(folder, key), signal.SIGKILL)

    thread = when_a_block_is_finished(folder, kill)
    results = sweep(tiny, folder, CPU, runner=RayRunner("auto"))
    thread.join()
    assert same(results, alone)
    log = SweepFolder(folder).log(killed[0]).read_text()
    assert len(_STARTED.findall(log)) == 2
    assert "resuming after" in log


def test_a_killed_node_loses_nothing(
    cluster: Callable[[int], Any], tiny: Grid, alone: Results, tmp_path: Path
) -> None:
    nodes = cluster(2)
    folder, killed = tmp_path / "out", []

    def kill(key: str) -> None:
        node = node_of(nodes, process_of(folder, key))
        killed.append(key)
        nodes.remove_node(node, allow_graceful=False)

    thread = when_a_block_is_finished(folder, kill)
    results = sweep(tiny, folder, CPU, runner=RayRunner("auto"))
    thread.join()
    assert same(results, alone)
    assert len(_STARTED.findall(SweepFolder(folder).log(killed[0]).read_text())) == 2


def test_an_interruption_stops_all_workers_and_the_sweep_continues(
    cluster: Callable[[int], Any], tiny: Grid, alone: Results, tmp_path: Path
) -> None:
    class Interrupting(Silent):
        def done(self, job: Job, outcome: Outcome) -> None:
            raise KeyboardInterrupt(job.key, outcome.key)

    cluster(2)
    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        sweep(tiny, folder, CPU, runner=RayRunner("auto"), display=Interrupting())
    # No worker holds a lock: a job that continues would find its output in use.
    torch.set_num_threads(THREADS)
    results = sweep(tiny, folder, CPU, resume=True)
    assert same(results, alone)
    assert any(outcome.reused for outcome in results.outcomes.values())


def test_a_job_that_fits_no_node_is_refused(
    tiny: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cluster_of_nodes(monkeypatch, memory=100 << 20) as start:
        start(1)
        results = sweep(tiny, tmp_path / "out", CPU, runner=RayRunner("auto"))
        assert {each.status for each in results.missing} == {"refused"}
        assert "the largest node of the cluster has 104.86 MB" in results.missing[0].reason
        with pytest.raises(ClusterError, match="no node has 64 CPUs; the largest has 1"):
            sweep(tiny, tmp_path / "out", CPU, runner=RayRunner("auto", 64))


def test_an_address_without_a_cluster_is_refused(tiny: Grid, tmp_path: Path) -> None:
    grid = dataclasses.replace(tiny, recipes=tiny.recipes[-1:])
    with pytest.raises(ClusterError, match="Ray at auto can't be reached"):
        sweep(grid, tmp_path / "out", CPU, runner=RayRunner("auto"))
