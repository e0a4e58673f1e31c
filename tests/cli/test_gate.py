"""The commands of the gate as a person or a job meets them."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result

from phi3quant.cli.main import main
from phi3quant.disk.output import MANIFEST
from phi3quant.source.locate import bundled_folder
from tests.faults import flip_bit, scale_name

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "check.schema.json").read_text())
# The test's own name for the exit codes of docs/reports.md.
PASSED, REGRESSION, BAD_INPUT, NOT_COMPARABLE = range(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an artifact ``out`` and its baseline ``b``."""
    made = tmp_path_factory.mktemp("gate")
    runner = CliRunner()
    assert runner.invoke(main, ["rtn", "-o", str(made / "out"), "--no-verify"]).exit_code == 0
    words = ["baseline", "create", str(made / "out"), "-o", str(made / "b"), "--max-tokens", "3072"]
    result = runner.invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "a token)" in result.output
    return made


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


def test_a_check_passes_and_prints_its_verdict_last(run: Callable[..., Result]) -> None:
    result = run("check", "out", "--baseline", "b")
    assert result.exit_code == PASSED, result.output
    assert result.output.splitlines()[-1] == "PASS: out against b"
    for words in ("mean KL", "same top token", "perplexity past the sliding window", "worst: "):
        assert words in result.output


def test_json_is_all_of_stdout_and_of_the_schema(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = run("check", "out", "--baseline", "b", "--max-ppl-increase", "0", "--json")
    assert result.exit_code == REGRESSION
    jsonschema.validate(json.loads(result.stdout), SCHEMA)
    assert "::error title=phi3quant check, budget::" in result.stderr


def test_reports_are_written_whatever_the_verdict(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    words = ("--junit", tmp_path / "j.xml", "--report", tmp_path / "r.json")
    (tmp_path / "summary.md").write_text("before\n")
    result = run("check", "phi3-tiny", "--baseline", "b", *words)
    # The original has no recipe to compare, and it is better than the baseline.
    assert result.exit_code == PASSED, result.output
    jsonschema.validate(json.loads((tmp_path / "r.json").read_text()), SCHEMA)
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("before\n### ")
    assert (tmp_path / "j.xml").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("check", "out"), BAD_INPUT, "Missing option '--baseline'"),
        (("check",), BAD_INPUT, "Missing argument 'ARTIFACT'"),
        (("check", "out", "--baseline", "nothing"), BAD_INPUT, "baseline create makes one"),
        (("check", "out", "--baseline", "out"), BAD_INPUT, "Is a directory"),
        (("check", "nowhere", "--baseline", "b"), BAD_INPUT, "there is no folder nowhere"),
        (("check", "out", "--baseline", "b", "--text", "no.txt"), BAD_INPUT, "no text no.txt"),
        (("check", "out", "--baseline", "b", "--max-drift", "x"), BAD_INPUT, "write 5% or 0.05"),
        (
            ("check", "out", "--baseline", "b", "--junit", "no/j.xml"),
            BAD_INPUT,
            "there is no folder no",
        ),
        (("check", "out", "--baseline", "out/config.json"), NOT_COMPARABLE, "not a baseline"),
        (("check", "out", "--baseline", "b", "--text", "general"), NOT_COMPARABLE, "SHA-256"),
        (("baseline", "create", "out", "-o", "b"), BAD_INPUT, "b exists"),
        (("baseline", "create", "out", "-o", "no/b"), BAD_INPUT, "there is no folder no"),
        (("baseline", "update", "out", "--baseline", "b"), BAD_INPUT, "Missing option '--reason'"),
        (("baseline", "show", "nothing"), BAD_INPUT, "No such file"),
        (("compare", "out"), BAD_INPUT, "Missing argument 'SECOND'"),
        (("compare", "out", "nowhere"), BAD_INPUT, "there is no folder nowhere"),
        (("verify", "nowhere"), BAD_INPUT, "there is no folder nowhere"),
        (("verify", bundled_folder()), NOT_COMPARABLE, "so its integrity can't be checked"),
    ],
)
def test_what_cannot_be_done_is_explained_in_a_line(
    words: tuple[object, ...], code: int, message: str, run: Callable[..., Result]
) -> None:
    result = run(*words)
    assert result.exit_code == code, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_baseline_shows_what_it_holds_and_why_it_changed(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(Path("b").read_bytes())
    result = run("baseline", "update", "out", "--baseline", copy, "--reason", "to see it")
    assert result.exit_code == 0, result.output
    assert "and 1.0000 of the artifact before (too few windows)" in result.output
    shown = run("baseline", "show", copy)
    for words in ("method rtn", "phi3-tiny", "a token", "created", "to see it", "sha256 text"):
        assert words in shown.output
    assert len(json.loads(run("baseline", "show", copy, "--json").output)["history"]) == 2


def test_compare_prints_what_differs_and_what_it_costs(run: Callable[..., Result]) -> None:
    result = run("compare", "phi3-tiny", "out", "--max-tokens", 1024)
    assert result.exit_code == 0, result.output
    for words in ("11 of 27 are equal", "and 8 more", "only out states it", "mean KL", "ratio"):
        assert words in result.output
    found = json.loads(run("compare", "out", "out", "--no-score", "--json").output)
    assert found["changed_tensors"] == []


def test_verify_names_the_file_that_changed(run: Callable[..., Result], tmp_path: Path) -> None:
    assert run("verify", "out", "--source", "phi3-tiny").exit_code == 0
    bad = tmp_path / "bad"
    bad.mkdir()
    for file in Path("out").iterdir():
        (bad / file.name).write_bytes(file.read_bytes())
    flip_bit(bad / "model.safetensors", scale_name(bad))
    result = run("verify", bad, "--quiet")
    assert result.exit_code == REGRESSION
    assert result.output.startswith("model.safetensors: has SHA-256")
    listed = json.loads(run("verify", bad, "--json").stdout)
    assert not listed["intact"]
    (bad / MANIFEST).write_text("{")
    assert run("verify", bad).exit_code == BAD_INPUT


def test_an_interrupted_baseline_leaves_nothing(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_given: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("phi3quant.gating.baselines.record", interrupted)
    result = run("baseline", "create", "out", "-o", tmp_path / "new")
    assert result.exit_code == 130
    assert not list(tmp_path.iterdir())
