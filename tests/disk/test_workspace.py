import errno
import os
from pathlib import Path

import pytest

from phi3quant.disk.workspace import open_workspace
from phi3quant.errors import OutputError
from tests.disk.artifacts import fail, fill, in_child, make, names


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
    with pytest.raises(OutputError, match="pass overwrite=True"):
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


def test_only_one_command_at_a_time_makes_an_output(tmp_path: Path) -> None:
    with open_workspace(tmp_path / "out", overwrite=False) as workspace:
        assert in_child(lambda: make(tmp_path / "out")) == 7
        assert in_child(lambda: make(tmp_path / "out", overwrite=True)) == 7
        assert in_child(lambda: make(tmp_path / "other")) == 0
        fill(workspace.begin_draft())
        workspace.publish()
    assert names(tmp_path) == ["other", "out"]
