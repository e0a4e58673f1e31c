import errno
from pathlib import Path

import pytest

from phi3quant.errors import OutputError
from phi3quant.output import MANIFEST, atomic_folder, write_json


def fill(folder: Path) -> None:
    (folder / "data").write_text("whole")
    (folder / MANIFEST).write_text("{}")


def fill_and_raise(target: Path, error: BaseException) -> None:
    with atomic_folder(target) as partial:
        fill(partial)
        raise error


def test_a_folder_appears_when_its_body_is_done(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with atomic_folder(target) as partial:
        fill(partial)
        assert not target.exists()
    assert (target / "data").read_text() == "whole"
    assert [path.name for path in target.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_whatever_ends_the_body_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fill_and_raise(tmp_path / "out", error())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "no space is left"), (errno.EROFS, "read-only"), (errno.EACCES, "permission")],
)
def test_a_disk_that_refuses_is_a_clear_error(tmp_path: Path, number: int, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        fill_and_raise(tmp_path / "out", OSError(number, "refused"))
    assert not list(tmp_path.iterdir())


def test_a_folder_with_content_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out")
    with pytest.raises(OutputError, match="pass --overwrite"), atomic_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "data").read_text() == "whole"


def test_overwrite_replaces_only_what_phi3quant_made(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "letters").write_text("precious")
    with pytest.raises(OutputError, match="not made by"), atomic_folder(target, overwrite=True):
        pass
    assert (target / "letters").read_text() == "precious"
    (target / MANIFEST).write_text("{}")
    with atomic_folder(target, overwrite=True) as partial:
        fill(partial)
    assert sorted(path.name for path in target.iterdir()) == sorted(["data", MANIFEST])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_overwrite_keeps_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_folder(target) as partial:
        fill(partial)
    with pytest.raises(RuntimeError), atomic_folder(target, overwrite=True) as partial:
        raise RuntimeError
    assert (target / "data").read_text() == "whole"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as partial:
        fill(partial)
    assert (tmp_path / "out" / "data").exists()


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with (
        pytest.raises(OutputError, match="not a folder"),
        atomic_folder(tmp_path / "out", overwrite=True),
    ):
        pass


def test_json_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
