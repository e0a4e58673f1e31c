"""Fixtures of commands."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from phi3quant.cli.main import main


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command line in an empty folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def model(tmp_path: Path, checkpoint_folder: Callable[[str], Path]) -> Path:
    shutil.copytree(checkpoint_folder("gqa"), tmp_path / "model")
    return tmp_path / "model"
