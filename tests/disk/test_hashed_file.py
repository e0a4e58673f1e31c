"""Bytes taken to the disk early: all of them once, in order, and never a few at a time."""

import os
from pathlib import Path

import pytest

from phi3quant.disk.hashed_file import HashedFile

MIB = 1 << 20


def test_a_growing_file_is_begun_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _file, *part: begun.append(part[:2]))
    file = HashedFile(tmp_path / "data")
    for size in (20 * MIB, 1, 20 * MIB, 100 * MIB, 3):
        file.write(bytes(size))
    assert begun == [(0, 40 * MIB + 1), (40 * MIB + 1, 100 * MIB)]
    assert file.close()["bytes"] == (tmp_path / "data").stat().st_size == 140 * MIB + 4


def test_systems_that_cannot_be_asked_get_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    file = HashedFile(tmp_path / "data")
    file.write(bytes(33 * MIB))
    file.close()
    assert (tmp_path / "data").stat().st_size == 33 * MIB
