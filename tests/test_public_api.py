import ast
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import calib
import converters
import phi3quant
from phi3quant.errors import OPTIONS, OutputError, on_the_command_line

UNTYPED: Any = phi3quant
"""As a notebook has it, without a type checker."""


def test_public_names_are_pinned_and_all_there() -> None:
    assert phi3quant.__all__ == [
        "Calibration",
        "Conduct",
        "EvaluationText",
        "Phi3QuantError",
        "QuantScheme",
        "Recipe",
        "TuningSettings",
        "__version__",
        "audit",
        "evaluate",
        "inspect",
        "locate",
        "quantize",
        "verify",
    ]
    for name in phi3quant.__all__:
        assert getattr(phi3quant, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = phi3quant.nothing


@pytest.mark.parametrize("first", ["converters", "calib.corpus", "phi3quant.run.pipeline"])
def test_any_package_can_be_imported_first(first: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import {first}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_package_alone_is_quick() -> None:
    code = "import phi3quant, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_messages_in_python_name_arguments_and_on_the_command_line_options(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(OutputError, match="choose another output, or pass overwrite=True"):
        phi3quant.quantize("phi3-tiny", tmp_path / "out", phi3quant.Recipe("rtn"))
    with (
        on_the_command_line(),
        pytest.raises(OutputError, match="choose another -o, or pass --overwrite"),
    ):
        phi3quant.quantize("phi3-tiny", tmp_path / "out", phi3quant.Recipe("rtn"))


def test_every_option_in_a_message_has_a_name_in_python() -> None:
    packages = [Path(module.__path__[0]) for module in (phi3quant, converters, calib)]
    files = [file for package in packages for file in package.rglob("*.py")]
    options = {
        option
        for file in files
        if "cli" not in file.parts
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Raise)
        for option in re.findall(r"(?<![\w-])(?:--[a-z][a-z-]+|-o)(?![\w-])", ast.unparse(node))
    }
    assert options
    assert options <= OPTIONS.keys()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: UNTYPED.QuantScheme(bits="4"), "bits is '4', of type str; it must be int"),
        (lambda: UNTYPED.QuantScheme(group_size=32.0), "group_size is 32.0, of type float"),
        (lambda: UNTYPED.Recipe(formats="gguf"), "formats is 'gguf', of type str"),
        (lambda: UNTYPED.Recipe(scheme=4), "scheme is 4, of type int; it must be QuantScheme"),
        (lambda: UNTYPED.Recipe(tuning=True), "tuning is True, of type bool; it must be Tuning"),
        (lambda: UNTYPED.TuningSettings(passes="2"), "passes is '2', of type str"),
        (lambda: UNTYPED.Calibration(samples=True), "samples is True, of type bool"),
        (lambda: UNTYPED.EvaluationText(max_tokens="8192"), "max_tokens is '8192'"),
        (lambda: UNTYPED.quantize("phi3-tiny", None), "output is None, of type NoneType"),
        (lambda: UNTYPED.quantize("phi3-tiny", "out", 4), "recipe is 4, of type int"),
        (lambda: UNTYPED.inspect(3), "model is 3, of type int; it must be str or Path or None"),
        (lambda: UNTYPED.verify(3), "artifacts is 3, of type int"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused_in_words(
    wrong: Callable[[], object], message: str
) -> None:
    with pytest.raises(phi3quant.Phi3QuantError, match=re.escape(message)):
        wrong()


def test_results_are_named_and_short_in_a_notebook(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    artifacts = phi3quant.quantize("phi3-tiny", out, phi3quant.Recipe("rtn"))
    assert repr(artifacts) == f"<Artifacts of phi3-tiny: compressed-tensors in {out}>"
    evaluation = phi3quant.verify(artifacts, phi3quant.EvaluationText(max_tokens=2048))
    assert evaluation[out] is evaluation.comparisons[1]
    assert evaluation[Path(out)].ratio > 1
    assert repr(evaluation).startswith("<Evaluation of 2,044 tokens, phi3-tiny: ")
    assert "mean KL" in repr(evaluation[out])
    with pytest.raises(KeyError, match="elsewhere was not scored; there are phi3-tiny, "):
        _ = evaluation["elsewhere"]
    assert not any(check.problem for check in phi3quant.verify(out))
