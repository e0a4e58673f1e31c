"""An output survives kills and disk errors at any step of its replacement."""

import contextlib
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from phi3quant.disk.workspace import Workspace, open_workspace
from phi3quant.errors import OutputError
from tests.disk.artifacts import fill, in_child, make, names


def kill_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill this process before the given call of those that change the file system."""
    left = [calls]

    def dying(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return real(*arguments, **options)

        return call

    for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync"):
        monkeypatch.setattr(os, name, dying(getattr(os, name)))


@pytest.mark.parametrize("overwrite", [False, True])
def test_after_a_kill_at_any_step_the_output_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: object
) -> None:
    killed = 0
    for calls in range(40):
        target = tmp_path / str(calls) / "out"
        target.parent.mkdir()
        if overwrite:
            fill(target, "old")

        def work(calls: int = calls, target: Path = target) -> None:
            kill_after(calls, monkeypatch)
            make(target, overwrite=bool(overwrite))

        if in_child(work) == 0:
            break
        killed += 1
        if target.exists():
            assert (target / "data").read_text() in (["old", "new"] if overwrite else ["new"])
        # The next command cleans up.
        make(target, overwrite=True, content="newer")
        assert (target / "data").read_text() == "newer"
        assert names(target.parent) == ["out"]
    assert 10 < killed < 40


@pytest.mark.parametrize("once", [False, True])
def test_after_a_disk_error_at_any_step_the_output_is_the_old_or_the_new_one(
    tmp_path: Path, *, once: bool
) -> None:
    failed = 0
    for calls in range(40):
        target = tmp_path / str(calls) / "out"
        fill(target, "old")
        left = [calls]

        def refusing(real: Callable[..., object], left: list[int] = left) -> Callable[..., object]:
            def call(*arguments: object, **options: object) -> object:
                left[0] -= 1
                if left[0] == -1 or (left[0] < 0 and not once):
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return real(*arguments, **options)

            return call

        with pytest.MonkeyPatch.context() as patch:
            for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync"):
                patch.setattr(os, name, refusing(getattr(os, name)))
            with contextlib.suppress(OutputError):
                make(target, overwrite=True)
        failed += left[0] < 0
        # A command that may not overwrite only recovers.
        with pytest.raises(OutputError, match="pass overwrite=True"):
            make(target)
        assert (target / "data").read_text() in ("old", "new")
        make(target, overwrite=True, content="newer")
        assert (target / "data").read_text() == "newer"
        assert names(target.parent) == ["out"]
    assert 10 < failed < 40


def test_recovery_puts_the_previous_output_back(tmp_path: Path) -> None:
    target, place = tmp_path / "out", tmp_path / ".out.unfinished"
    fill(place / "old", "old")
    fill(place / "whole")
    (place / "done.json").write_text("{}")
    with pytest.raises(OutputError, match="pass overwrite=True"):
        make(target)
    assert (target / "data").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_the_previous_output_survives_a_disk_that_refuses_to_put_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    fill(target, "old")
    rename = os.rename

    def failing(source: Path, name: Path) -> None:
        if Path(name) == target:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(name))
        rename(source, name)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OutputError, match="the disk reports an error"):
        make(target, overwrite=True)
    monkeypatch.undo()
    with pytest.raises(OutputError, match="pass overwrite=True"):
        make(target)
    assert (target / "data").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_recovery_keeps_both_the_previous_output_and_a_newer_folder(tmp_path: Path) -> None:
    target, place = tmp_path / "out", tmp_path / ".out.unfinished"
    fill(place / "old", "old")
    fill(place / "whole")
    (place / "begun.json").write_text("{}")
    fill(target, "another")
    with pytest.raises(OutputError, match="something else has appeared there; move one"):
        make(target, overwrite=True)
    assert (place / "old" / "data").read_text() == "old"
    assert (target / "data").read_text() == "another"


def test_finished_blocks_outlive_an_error(tmp_path: Path) -> None:
    def work() -> None:
        with open_workspace(tmp_path / "out", overwrite=False) as workspace:
            (workspace.folder / "block-00000.safetensors").write_text("finished")
            (workspace.folder / "states.clean").write_text("large")
            fill(workspace.begin_draft())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    place = tmp_path / ".out.unfinished"
    assert names(place) == ["begun.json", "block-00000.safetensors"]
    assert Workspace(tmp_path / "out", place, overwrite=False).has_blocks


def test_the_workspace_of_a_process_killed_after_publishing_is_removed(tmp_path: Path) -> None:
    fill(tmp_path / "out", "new")
    place = tmp_path / ".out.unfinished"
    place.mkdir()
    for name in ("done.json", "block-00000.safetensors"):
        (place / name).write_text("{}")
    with pytest.raises(OutputError, match="pass overwrite=True"):
        make(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "data").read_text() == "new"
