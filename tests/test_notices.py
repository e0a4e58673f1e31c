import json
import logging
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from converters import open_weights
from phi3quant.cli.main import main
from phi3quant.source.bundled import bundled_folder


@pytest.fixture
def left_over(tmp_path: Path) -> Path:
    """A plain model whose config still describes the quantization of another."""
    folder = Path(shutil.copytree(bundled_folder(), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_scripts_see_notes_as_warnings_of_a_logger(
    left_over: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_weights(left_over)
    assert caplog.record_tuples == [("phi3quant", logging.WARNING, caplog.messages[0])]
    assert "quantization_config" in caplog.messages[0]


@pytest.mark.parametrize(("quiet", "times"), [((), 1), (("-q",), 0)])
def test_a_command_prints_each_note_once_unless_quiet(
    left_over: Path, tmp_path: Path, quiet: tuple[str, ...], times: int
) -> None:
    words = ["rtn", str(left_over), "-o", str(tmp_path / "out"), "--max-tokens", "1024", *quiet]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("note: ") == times
    assert ("quantization_config" in done.stderr) == bool(times)
