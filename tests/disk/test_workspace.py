import contextlib
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from phi3quant.disk.output import MANIFEST, write_json
from phi3quant.disk.shield import uninterrupted
from phi3quant.disk.workspace import Workspace, open_workspace
from phi3quant.errors import OutputError, ResumeError


def fill(folder: Path, content: str = "new") -> None:
    """An artifact of one file."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "data").write_text(content)
    write_json(folder / MANIFEST, {"schema": 1, "files": {"data": {}}})


def make(output: Path, *, overwrite: bool = False, content: str = "new") -> None:
    with open_workspace(output, overwrite=overwrite) as workspace:
        fill(workspace.begin_draft(), content)
        workspace.publish()


def fail(output: Path, error: BaseException, *, overwrite: bool = False) -> None:
    with open_workspace(output, overwrite=overwrite) as workspace:
        fill(workspace.begin_draft())
        raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_output_appears_when_it_is_published(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with open_workspace(target, overwrite=False) as workspace:
        fill(workspace.begin_draft())
        assert not target.exists()
        workspace.publish()
    assert (target / "data").read_text() == "new"
    assert names(target.parent) == ["out"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_body_that_ends_early_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fail(tmp_path / "deep" / "out", error())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.ENOENT, errno.EBUSY]
)
def test_an_error_of_the_system_becomes_a_message(tmp_path: Path, number: int) -> None:
    with pytest.raises(OutputError, match=r"can't write .*out: "):
        fail(tmp_path / "out", OSError(number, os.strerror(number)))
    assert not list(tmp_path.iterdir())


def test_a_folder_with_content_is_kept_without_overwrite(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    with pytest.raises(OutputError, match="pass --overwrite"):
        make(tmp_path / "out")
    assert (tmp_path / "out" / "data").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_overwrite_replaces_what_phi3quant_made(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    make(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "data").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_a_failed_overwrite_keeps_the_old_folder(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    with pytest.raises(RuntimeError):
        fail(tmp_path / "out", RuntimeError(), overwrite=True)
    assert (tmp_path / "out" / "data").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_an_empty_folder_becomes_the_output(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    make(tmp_path / "out")
    assert (tmp_path / "out" / "data").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_appears_meanwhile_is_kept(tmp_path: Path, overwrite: object) -> None:
    target = tmp_path / "out"

    def work() -> None:
        with open_workspace(target, overwrite=bool(overwrite)) as workspace:
            fill(workspace.begin_draft())
            target.mkdir()
            (target / "letters").write_text("precious")
            workspace.publish()

    with pytest.raises(OutputError, match=r"is not empty|not made by phi3quant"):
        work()
    assert names(target) == ["letters"]
    assert names(tmp_path) == ["out"]


def test_a_folder_that_appears_at_the_last_moment_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"

    def late(_path: Path, *, overwrite: bool) -> None:
        del overwrite
        if target.parent.joinpath(".out.unfinished", "whole").exists():
            target.mkdir()
            (target / "letters").write_text("precious")

    monkeypatch.setattr("phi3quant.disk.workspace.check_output_folder", late)
    with pytest.raises(OutputError, match="not empty"):
        make(target)
    assert names(target) == ["letters"]


def test_a_link_in_place_of_the_workspace_is_not_followed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "letters").write_text("precious")
    (tmp_path / ".out.unfinished").symlink_to(home)
    with pytest.raises(OutputError, match=r"\.out\.unfinished is a link"):
        make(tmp_path / "out", overwrite=True)
    assert names(home) == ["letters"]


@pytest.mark.parametrize("name", ["letters", "whole", "block-00000.safetensors", "states.csv"])
def test_foreign_files_in_the_workspace_are_not_touched(tmp_path: Path, name: str) -> None:
    place = tmp_path / ".out.unfinished"
    place.mkdir()
    (place / name).write_text("precious")
    with pytest.raises(OutputError, match=f"holds {name}, not made by phi3quant"):
        make(tmp_path / "out", overwrite=True)
    assert (place / name).read_text() == "precious"


def test_a_folder_that_only_looks_like_a_workspace_is_not_touched(tmp_path: Path) -> None:
    place = tmp_path / ".out.unfinished"
    fill(place / "whole", "precious")
    (place / "block-00000.safetensors").write_text("precious")
    with pytest.raises(OutputError, match="not made by phi3quant"):
        make(tmp_path / "out", overwrite=True)
    assert (place / "whole" / "data").read_text() == "precious"


def test_a_link_in_the_workspace_is_deleted_but_not_followed(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters").write_text("precious")
    place = tmp_path / ".out.unfinished"
    place.mkdir()
    (place / "begun.json").write_text("{}")
    (place / "whole").symlink_to(tmp_path / "home")
    make(tmp_path / "out")
    assert names(tmp_path / "home") == ["letters"]
    assert names(tmp_path) == ["home", "out"]


def in_child(work: Callable[[], None]) -> int:
    """The exit code of a forked process; 7 for ResumeError."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except ResumeError:
            code = 7
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_only_one_command_at_a_time_makes_an_output(tmp_path: Path) -> None:
    with open_workspace(tmp_path / "out", overwrite=False) as workspace:
        assert in_child(lambda: make(tmp_path / "out")) == 7
        assert in_child(lambda: make(tmp_path / "out", overwrite=True)) == 7
        assert in_child(lambda: make(tmp_path / "other")) == 0
        fill(workspace.begin_draft())
        workspace.publish()
    assert names(tmp_path) == ["other", "out"]


def kill_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill this process before the given call of those that change the file system."""
    left = [calls]

    def dying(real: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object, **more: object) -> object:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return real(*given, **more)

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
            def call(*given: object, **more: object) -> object:
                left[0] -= 1
                if left[0] == -1 or (left[0] < 0 and not once):
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return real(*given, **more)

            return call

        with pytest.MonkeyPatch.context() as patch:
            for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync"):
                patch.setattr(os, name, refusing(getattr(os, name)))
            with contextlib.suppress(OutputError):
                make(target, overwrite=True)
        failed += left[0] < 0
        # A command that may not overwrite only recovers.
        with pytest.raises(OutputError, match="pass --overwrite"):
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
    with pytest.raises(OutputError, match="pass --overwrite"):
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
    with pytest.raises(OutputError, match="pass --overwrite"):
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


def test_signals_are_deferred_until_a_protected_step_is_done() -> None:
    done = []

    def step() -> None:
        with uninterrupted():
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        step()
    assert done == ["all of it"]


def test_the_workspace_of_a_process_killed_after_publishing_is_removed(tmp_path: Path) -> None:
    fill(tmp_path / "out", "new")
    place = tmp_path / ".out.unfinished"
    place.mkdir()
    for name in ("done.json", "block-00000.safetensors"):
        (place / name).write_text("{}")
    with pytest.raises(OutputError, match="pass --overwrite"):
        make(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "data").read_text() == "new"
