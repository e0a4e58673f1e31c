"""Results at an address of fsspec: found by machines that have nothing, and never trusted."""

import dataclasses
import sys
from pathlib import Path

import fsspec
import pytest
from click.testing import CliRunner

from phi3quant.cli.main import main
from phi3quant.errors import InputError, OutputError
from phi3quant.sweep.conduct import sweep
from phi3quant.sweep.folder import SweepFolder
from phi3quant.sweep.grid import Grid
from phi3quant.sweep.originals import files_of_original
from phi3quant.sweep.results import Results
from phi3quant.sweep.store import Store
from tests.sweep.conftest import CPU
from tests.sweep.test_sweep import copy, hashes, no_work


def lasting(results: Results) -> dict[str, object]:
    return {key: dataclasses.replace(each, seconds=None) for key, each in results.outcomes.items()}


@pytest.fixture(params=["memory://sweeps/one", "file", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    place = tmp_path / "store"
    addresses = {"file": place.as_uri(), "folder": str(place)}
    fsspec.filesystem("memory").store.clear()
    return Store(addresses.get(request.param, request.param))


def test_another_machine_finds_the_results(
    results: Results, grid: Grid, store: Store, tmp_path: Path
) -> None:
    here = copy(results, tmp_path / "here")
    sweep(grid, here, CPU, runner=no_work, store=store)
    there = sweep(grid, tmp_path / "there", CPU, runner=no_work, store=store)
    assert lasting(there) == lasting(results)
    for job in results.plan.jobs:
        artifact = there.folder.artifact(job.key)
        assert hashes(artifact) == hashes(results.folder.artifact(job.key))


def test_new_results_and_originals_go_to_the_store(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store((tmp_path / "store").as_uri())
    one = dataclasses.replace(grid, recipes=grid.recipes[:1])
    first = sweep(one, tmp_path / "a", CPU, store=store)
    (job,) = first.plan.jobs
    stored = tmp_path / "store" / "artifacts" / job.key
    assert hashes(stored) == hashes(first.folder.artifact(job.key))

    def recomputed(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("phi3quant.sweep.originals._write", recomputed)
    two = dataclasses.replace(grid, recipes=grid.recipes[:2])
    second = sweep(two, tmp_path / "b", CPU, store=store)
    kept = second.folder.original(job.subject.original)
    assert [second.outcomes[each.key].reused for each in second.plan.jobs] == [True, False]
    assert second.outcomes[second.plan.jobs[1].key].done
    assert all(path.is_file() for path in files_of_original(kept))


def test_an_artifact_that_is_damaged_there_is_made_again(
    results: Results, grid: Grid, tmp_path: Path
) -> None:
    store = Store(str(tmp_path / "store"))
    sweep(grid, copy(results, tmp_path / "here"), CPU, runner=no_work, store=store)
    job = results.plan.jobs[1]
    (weights,) = (tmp_path / "store" / "artifacts" / job.key).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    again = sweep(grid, tmp_path / "there", CPU, store=store)
    assert not again.outcomes[job.key].reused
    for place in (again.folder.path, tmp_path / "store"):
        made = SweepFolder(place).artifact(job.key)
        assert hashes(made) == hashes(results.folder.artifact(job.key))


def test_an_artifact_that_is_damaged_here_does_not_reach_the_store(
    results: Results, grid: Grid, tmp_path: Path
) -> None:
    here, store = copy(results, tmp_path / "here"), Store(str(tmp_path / "store"))
    job = results.plan.jobs[1]
    (weights,) = SweepFolder(here).artifact(job.key).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    sweep(grid, here, CPU, store=store)
    stored = SweepFolder(tmp_path / "store").artifact(job.key)
    assert hashes(stored) == hashes(results.folder.artifact(job.key))


def test_names_that_lead_out_of_the_folder_are_refused(results: Results, tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    files.store.clear()
    key, folder = results.plan.jobs[0].key, SweepFolder(tmp_path / "out")
    folder.make()
    files.pipe_file(f"/s/outcomes/{key}.json", b"{}")
    files.store[f"/s/artifacts/{key}/../../escaped"] = files.store[f"/s/outcomes/{key}.json"]
    with pytest.raises(OutputError, match="unusable name"):
        Store("memory://s").fetch(folder, key)
    assert not folder.artifact(key).exists()
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [("s4://bucket", "Protocol not known: s4"), ("s3://bucket/x", "s3fs"), (" ", "is empty")],
)
def test_an_address_that_fsspec_lacks_has_a_message(
    address: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match=message):
        Store(address).check()
    options = ["--models", "phi3-tiny", "--presets", "phone-fast", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(main, ["sweep", *options, "--store", address])
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_a_store_that_cannot_be_written_is_refused_before_work(grid: Grid, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    with pytest.raises(OutputError, match="can't be used"):
        sweep(grid, tmp_path / "out", CPU, runner=no_work, store=Store(f"{tmp_path}/file/store"))
    assert not (tmp_path / "out").exists()
