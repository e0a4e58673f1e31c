"""Sweeps in one process: the same bytes as single runs, a cache, failures of single jobs."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from phi3quant.errors import OutputError, ResumeError
from phi3quant.evaluation import evaluate
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.progress import silent
from phi3quant.provenance import manifest
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run import one_block, shared_work
from phi3quant.run.calibration import Calibration
from phi3quant.run.conduct import Conduct
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.run.shared_work import SharedWork
from phi3quant.run.verification import Verification
from phi3quant.sweep import originals, work
from phi3quant.sweep.conduct import Demands, sweep
from phi3quant.sweep.display import Display
from phi3quant.sweep.folder import SweepFolder
from phi3quant.sweep.grid import Grid, GridRecipe, ModelEntry
from phi3quant.sweep.outcome import Outcome
from phi3quant.sweep.plan import Limits
from phi3quant.sweep.require import parse_requirement
from phi3quant.sweep.results import Results
from phi3quant.sweep.work import Task
from phi3quant.tuning.settings import TuningSettings
from tests.run.recipes import recipe
from tests.sweep.conftest import CPU


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of all files, manifests included."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def copy(results: Results, folder: Path) -> Path:
    shutil.copytree(results.folder.path, folder)
    return folder


def no_work(
    tasks: Sequence[Task], _shared: SharedWork, _display: Display
) -> Iterator[tuple[Task, Outcome]]:
    assert not tasks
    return iter(())


def test_each_artifact_has_the_bytes_of_a_run_alone(results: Results, tmp_path: Path) -> None:
    for job in results.plan.jobs:
        place = tmp_path / job.key
        judge = Verification(results.plan.text, silent, "cpu")
        located = job.subject.located
        quantize(located, place, job.recipe, progress=silent, conduct=Conduct(judge=judge))
        assert hashes(place) == hashes(results.folder.artifact(job.key)), job.label


def test_a_model_is_opened_hashed_and_scored_once(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(home: Any, name: str) -> None:
        before = getattr(home, name)

        def call(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            return before(*arguments, **named)

        monkeypatch.setattr(home, name, call)

    counted(originals, "full_precision")
    counted(manifest, "describe_source")
    counted(shared_work, "_open_plain")
    counted(shared_work, "calibration_windows")
    counted(evaluate, "text_windows")
    sweep(grid, tmp_path / "out", CPU)
    assert sorted(calls) == [
        *("_open_plain", "calibration_windows", "describe_source", "full_precision"),
        "text_windows",
    ]


def test_a_second_sweep_does_nothing(grid: Grid, results: Results, tmp_path: Path) -> None:
    folder = copy(results, tmp_path / "out")
    again = sweep(grid, folder, CPU, runner=no_work)
    assert not again.news
    assert len(again.as_json()["reused"]) == len(again.plan.jobs)
    assert [row.artifact for row in again.rows] == [row.artifact for row in results.rows]
    assert [row.outcome.seconds for row in again.rows] == [
        row.outcome.seconds for row in results.rows
    ]


def test_a_sweep_of_other_recipes_shares_the_folder(
    grid: Grid, results: Results, tmp_path: Path, prose: Path
) -> None:
    folder = copy(results, tmp_path / "out")
    more = dataclasses.replace(
        grid, recipes=(*grid.recipes[:1], GridRecipe(recipe("rtn", prose, formats=("mlx",))))
    )
    again = sweep(more, folder, CPU)
    assert [outcome.reused for outcome in again.outcomes.values()] == [True, False]
    assert again.news


@pytest.mark.parametrize("change", ["flip", "delete", "manifest"])
def test_an_artifact_that_was_changed_is_made_again(
    grid: Grid, results: Results, tmp_path: Path, change: str
) -> None:
    folder = copy(results, tmp_path / "out")
    job = results.plan.jobs[0]
    artifact = SweepFolder(folder).artifact(job.key)
    (file,) = artifact.glob("*.gguf")
    if change == "flip":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif change == "delete":
        file.unlink()
    else:
        manifest = json.loads((artifact / "phi3quant.json").read_text())
        manifest["recipe"]["bits"] = 8
        (artifact / "phi3quant.json").write_text(json.dumps(manifest))
    again = sweep(grid, folder, CPU)
    assert [outcome.reused for outcome in again.outcomes.values()].count(False) == 1
    assert hashes(artifact) == hashes(results.folder.artifact(job.key))


def test_figures_are_restored_from_the_manifest_if_only_they_are_missing(
    grid: Grid, results: Results, tmp_path: Path
) -> None:
    folder = copy(results, tmp_path / "out")
    for number, path in enumerate(sorted((folder / "outcomes").iterdir())):
        path.unlink() if number else path.write_text('{"key": []}')
    again = sweep(grid, folder, CPU, runner=no_work)
    assert [row.artifact for row in again.rows] == [row.artifact for row in results.rows]
    assert all(row.outcome.seconds is None for row in again.rows)


def test_damaged_predictions_of_the_original_are_computed_again(
    grid: Grid, results: Results, tmp_path: Path
) -> None:
    folder = copy(results, tmp_path / "out")
    (states,) = (folder / "originals").glob("*.safetensors")
    intact = states.read_bytes()
    states.write_bytes(intact[:-4] + b"\0\0\0\1")
    shutil.rmtree(folder / "artifacts")
    again = sweep(grid, folder, CPU)
    assert states.read_bytes() == intact
    assert [row.artifact for row in again.rows] == [row.artifact for row in results.rows]


def test_a_job_that_does_not_fit_is_refused_and_the_others_run(
    grid: Grid, model: Path, tmp_path: Path, prose: Path
) -> None:
    from phi3quant.model.config_file import read_config
    from phi3quant.run.memory_budget import needs

    wide = dataclasses.replace(
        grid,
        recipes=(
            *grid.recipes[:2],
            # The model's rows have 64 and 96 weights.
            GridRecipe(recipe("rtn", prose, scheme=QuantScheme(4, 256))),
        ),
    )
    least = needs(read_config(model), None).memory
    results = sweep(wide, tmp_path / "out", Limits("cpu", least))
    assert [(each.label.split(",")[0], each.status) for each in results.missing] == [
        ("AWQ int4 sym g32", "refused"),
        ("RTN int4 sym g256", "refused"),
    ]
    assert "of memory and Conduct(max_memory=...) is" in results.missing[0].reason
    assert len(results.rows) == 2
    assert not results.passed


def test_an_error_ends_only_its_job_and_a_bug_is_logged(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_model: Any, output: Path, wanted: Any, **_others: Any) -> None:
        if wanted.method == "awq":
            raise ZeroDivisionError("an accident")
        quantize(_model, output, wanted, **_others)

    monkeypatch.setattr(work, "quantize", broken)
    results = sweep(grid, tmp_path / "out", CPU)
    assert [each.status for each in results.missing] == ["failed", "failed"]
    assert "a bug: ZeroDivisionError: an accident" in results.missing[0].reason
    log = Path(results.missing[0].reason.split("log: ")[1].rstrip(")"))
    assert "Traceback" in log.read_text()
    assert len(results.rows) == 2


def test_a_model_that_cannot_be_opened_does_not_stop_the_others(
    grid: Grid, results: Results, tmp_path: Path
) -> None:
    folder = copy(results, tmp_path / "out")
    more = dataclasses.replace(grid, models=(ModelEntry(str(tmp_path / "none")), *grid.models))
    again = sweep(more, folder, CPU, runner=no_work)
    assert len(again.rows) == len(results.rows)
    assert {(each.status, "there is no folder" in each.reason) for each in again.missing} == {
        ("refused", True)
    }


def interrupt(grid: Grid, folder: Path, monkeypatch: pytest.MonkeyPatch) -> KeyboardInterrupt:
    """Interrupt a sweep in the second block of its second job."""
    whole, calls = one_block.quantize_block, 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(one_block, "quantize_block", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            sweep(grid, folder, CPU)
    return caught.value


def test_an_interrupted_sweep_continues_after_the_finished_blocks(
    grid: Grid, results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    error = interrupt(grid, folder, monkeypatch)
    assert "1 of 3 results are kept" in "".join(error.__notes__)
    assert len(json.loads((folder / "sweep.json").read_text())["missing"]) == 2
    with pytest.raises(ResumeError, match="1 block done"):
        sweep(grid, folder, CPU)
    again = sweep(grid, folder, CPU, resume=True)
    assert [outcome.reused for outcome in again.outcomes.values()] == [True, False, False]
    for job in again.plan.jobs:
        made = SweepFolder(folder).artifact(job.key)
        assert hashes(made) == hashes(results.folder.artifact(job.key))
    log = SweepFolder(folder).log(again.plan.jobs[1].key).read_text()
    assert "resuming after 1 finished block" in log


def test_blocks_of_other_settings_are_dropped_and_the_job_starts_over(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    interrupt(grid, folder, monkeypatch)
    torch.set_num_threads(torch.get_num_threads() + 1)
    again = sweep(grid, folder, CPU, resume=True)
    assert again.passed
    assert "starting over" in SweepFolder(folder).log(again.plan.jobs[1].key).read_text()


def test_a_folder_with_other_content_and_one_in_use_are_refused(
    grid: Grid, results: Results, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"no sweep\.json"):
        sweep(grid, tmp_path / "other", CPU)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes.txt"]
    folder = copy(results, tmp_path / "out")
    with SweepFolder(folder).locked(), pytest.raises(ResumeError, match="another sweep"):
        sweep(grid, folder, CPU)


def test_winners_and_requirements_decide(grid: Grid, results: Results, tmp_path: Path) -> None:
    folder = copy(results, tmp_path / "out")
    smallest = min(row.artifact.nbytes for row in results.rows)

    def judged(limits: tuple[int, ...], *required: str) -> Results:
        demands = Demands(limits, tuple(map(parse_requirement, required)))
        return sweep(grid, folder, CPU, demands=demands, runner=no_work)

    assert judged((), "bpw<16").passed
    assert not judged((), "kl<0.000001").passed
    assert len(judged((), "kl<0.000001").missed) == len(results.rows)
    assert judged((smallest,), f"bytes<={smallest}").passed
    assert len(judged((10**9,), "kl<0.000001").missed) == 1
    none = judged((smallest - 1,))
    assert none.winners[0].row is None
    assert not none.passed


def test_tuned_results_on_mixed_texts_are_used_again(
    model: Path, prose: Path, text: EvaluationText, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Nine herons stood in the reeds and none of them moved. " * 40, "utf-8")
    tuned = Recipe(
        calibration=Calibration((prose, other), samples=6, length=32),
        tuning=TuningSettings(windows=8, passes=1),
    )
    written = dataclasses.replace(
        tuned, calibration=dataclasses.replace(tuned.calibration, source=(prose, "self:4"))
    )
    grid = Grid((ModelEntry(str(model)),), tuple(map(GridRecipe, (tuned, written))), text)
    first = sweep(grid, tmp_path / "out", CPU)
    assert all(outcome.done for outcome in first.outcomes.values())
    again = sweep(grid, tmp_path / "out", CPU, runner=no_work)
    assert again.outcomes == first.outcomes
