"""Fixtures for models that tests change."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.converters.spoiled import copy_of


@pytest.fixture
def folder(tmp_path: Path, checkpoint_folder: Callable[[str], Path]) -> Path:
    """A copy that a test may spoil."""
    return copy_of(checkpoint_folder("gqa"), tmp_path / "model")
