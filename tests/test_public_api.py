import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import calib
import converters
import phi3quant
from phi3quant.errors import OPTIONS, OutputError, on_the_command_line


def test_public_names_are_pinned_and_all_there() -> None:
    assert phi3quant.__all__ == [
        "Calibration",
        "EvaluationText",
        "Phi3QuantError",
        "QuantScheme",
        "Recipe",
        "__version__",
        "evaluate",
        "inspect",
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
