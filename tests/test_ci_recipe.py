"""The workflow and the hooks in docs/ci, run as they stand."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from junitparser import JUnitXml

from phi3quant.cli.main import main
from phi3quant.disk.output import MANIFEST
from phi3quant.gating.check import Limits, check
from phi3quant.run.calibration import Calibration
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.faults import flip_bit, scale_name

ROOT = Path(__file__).resolve().parents[1]
ARTIFACT = Path("build/gate/artifact")


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / "docs" / "ci" / name).read_text(encoding="utf-8"))


def workflow_commands() -> list[str]:
    """Commands of the job that run phi3quant, in order, without the installation."""
    steps = load("gate.yml")["jobs"]["gate"]["steps"]
    commands = [step["run"].strip() for step in steps if "run" in step]
    return [command for command in commands if command.startswith("phi3quant ")]


def hook_commands() -> list[str]:
    (repository,) = load("pre-commit-config.yaml")["repos"]
    return [hook["entry"] for hook in repository["hooks"]]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command line of the documents in a folder, with this very source."""
    words = [sys.executable, "-m", *shlex.split(command)]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def invoke(command: str) -> Result:
    """The same within this process, which spares starting one."""
    name, *words = shlex.split(command)
    assert name == "phi3quant"
    return CliRunner().invoke(main, words)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the recipe needs of a clone, after the recipe ran there."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "docs" / "ci", folder / "docs" / "ci")
    for command in workflow_commands():
        done = run(command, folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_recipe_passes_on_the_bundled_model(clone: Path) -> None:
    (suite,) = JUnitXml.fromfile(str(clone / "build/gate/junit.xml"))
    assert suite.tests > 15
    assert (suite.failures, suite.errors, suite.skipped) == (0, 0, 0)
    report = json.loads((clone / "build/gate/report.json").read_text())
    assert report["verdict"] == "pass"


def test_the_hooks_pass_too(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone)
    for command in hook_commands():
        result = invoke(command)
        assert result.exit_code == 0, result.output


def test_make_gate_runs_the_same_commands() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    own = makefile.split("\ngate:")[1].split("\n\n")[0].splitlines()[1:]
    assert [line.strip().removeprefix("$(BIN)/") for line in own] == workflow_commands()
    assert "make gate" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_one_flipped_bit_of_a_scale_fails_the_job_and_is_named(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(clone, tmp_path / "clone"))
    flip_bit(folder / ARTIFACT / "model.safetensors", scale_name(folder / ARTIFACT))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    *_, verifying, checking = workflow_commands()
    verified = invoke(verifying)
    assert verified.exit_code == 1
    assert "model.safetensors: has SHA-256" in verified.stdout
    checked = invoke(checking)
    assert checked.exit_code == 3
    assert "::error title=phi3quant check, comparable::" in checked.stderr
    for text in (
        checked.stdout,
        checked.stderr,
        Path("summary.md").read_text(encoding="utf-8"),
        Path("build/gate/junit.xml").read_text(encoding="utf-8"),
    ):
        assert "model.safetensors has SHA-256" in text
    (suite,) = JUnitXml.fromfile("build/gate/junit.xml")
    assert suite.errors == 1


def test_a_flipped_exponent_fails_even_without_a_manifest(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(clone, tmp_path / "clone"))
    (folder / ARTIFACT / MANIFEST).unlink()
    flip_bit(folder / ARTIFACT / "model.safetensors", scale_name(folder / ARTIFACT), bit=14)
    monkeypatch.chdir(folder)
    result = invoke(workflow_commands()[-1])
    assert result.exit_code == 1, result.output


def test_the_baseline_bears_the_rounding_of_other_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWQ's bytes depend on how a machine multiplies (docs/adr/0006); here it is in FP32."""
    monkeypatch.setattr("phi3quant.run.one_block.product_dtype", lambda *_: torch.float32)
    quantize("phi3-tiny", tmp_path / "out", Recipe("awq", calibration=Calibration(samples=16)))
    report = check(tmp_path / "out", ROOT / "docs/ci/phi3-tiny.baseline", Limits(0.01, 0.002))
    assert report.exit_code == 0, report.findings
