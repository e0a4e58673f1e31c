"""``phi3quant report``, as it is called."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from phi3quant.cli.main import main
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, checkpoint_folder: Callable[[str], Path]
) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("made") / "out"
    quantize(checkpoint_folder("gqa"), folder, Recipe("rtn", formats=("gguf",)))
    return checkpoint_folder("gqa"), folder


@pytest.fixture
def run(
    made: tuple[Path, Path], tmp_path: Path, prose: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Report on a run, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    original, folder = made
    given = ("report", folder, "--reference", original, "--text", prose, "--window", "64")
    return lambda *words: CliRunner().invoke(main, [str(word) for word in (*given, *words)])


def test_terminal_page_and_json_say_the_same(run: Callable[..., Result]) -> None:
    shown = run("-o", "report.html")
    assert shown.exit_code == 0, shown.output
    assert "report.html: " in shown.stderr
    page = Path("report.html").read_text(encoding="utf-8")
    told = json.loads(run("--json").stdout)
    (row,) = told["rows"]
    for text in (shown.stdout, page):
        assert f"{row['figures']['ratio']:.4f}" in text
        assert f"{row['divergence']['quantiles']['0.999']:#.3g}" in text
        assert f"{row['worst_windows'][0]['ratio']:.4f}" in text
    assert "The manifests record no errors" in page
    assert [path.name for path in Path().iterdir()] == ["report.html"]


def test_a_report_replaces_a_report_and_nothing_else(run: Callable[..., Result]) -> None:
    for _ in range(2):
        assert run("-o", "report.html", "--no-score").exit_code == 0
    Path("mine.html").write_text("<!DOCTYPE html><title>mine</title>", encoding="utf-8")
    refused = run("-o", "mine.html", "--no-score")
    assert refused.exit_code == 2
    assert "mine.html exists and is no report" in refused.stderr
    assert "mine" in Path("mine.html").read_text(encoding="utf-8")
    assert run("-o", "mine.html", "--no-score", "--overwrite").exit_code == 0
    assert "phi3quant report" in Path("mine.html").read_text(encoding="utf-8")


def test_what_was_left_out_is_said(run: Callable[..., Result]) -> None:
    unscored = run("--no-score", "-o", "report.html")
    assert unscored.exit_code == 0
    assert "scoring was left out" in Path("report.html").read_text(encoding="utf-8")
    assert json.loads(run("--no-score", "--json").stdout)["unscored"]


def test_bad_input_is_said_before_any_work(
    run: Callable[..., Result], made: tuple[Path, Path], tmp_path: Path
) -> None:
    nowhere = run("-o", "nowhere/report.html")
    assert nowhere.exit_code == 2
    assert "there is no folder nowhere" in nowhere.stderr
    missing = CliRunner().invoke(main, ["report", "no-such-run"])
    assert missing.exit_code == 2
    assert "there is no folder no-such-run" in missing.stderr
    unknown = run("--reference", "no-such-model")
    assert unknown.exit_code == 2
    damaged = tmp_path / "damaged"
    shutil.copytree(made[1], damaged)
    (damaged / "phi3quant.json").write_text("{", encoding="utf-8")
    broken = CliRunner().invoke(main, ["report", str(damaged), "--no-score"])
    assert broken.exit_code == 2
    assert "phi3quant.json" in broken.stderr
    for result in (nowhere, missing, unknown, broken):
        assert "Traceback" not in result.output


def test_without_matplotlib_the_terminal_still_works(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused = run("-o", "report.html")
    assert refused.exit_code == 2
    assert "phi3quant[report]" in refused.stderr
    assert not Path("report.html").exists()
    assert run("--no-score").exit_code == 0
