"""Early write-back covers every byte once, in order and in large parts."""

import os
from pathlib import Path

import pytest

from phi3quant.disk.hashed_file import HashedFile

MIB = 1 << 20


def test_write_back_of_a_growing_file_starts_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _file, *part: started.append(part[:2]))
    file = HashedFile(tmp_path / "data")
    for size in (20 * MIB, 1, 20 * MIB, 100 * MIB, 3):
        file.write(bytes(size))
    assert started == [(0, 40 * MIB + 1), (40 * MIB + 1, 100 * MIB)]
    assert file.close()["bytes"] == (tmp_path / "data").stat().st_size == 140 * MIB + 4


def test_systems_without_posix_fadvise_get_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fadvise")
    file = HashedFile(tmp_path / "data")
    file.write(bytes(33 * MIB))
    file.close()
    assert (tmp_path / "data").stat().st_size == 33 * MIB
