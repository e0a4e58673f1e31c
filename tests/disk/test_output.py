import errno
import os
from pathlib import Path

import pytest

from phi3quant.disk import output
from phi3quant.disk.output import (
    MANIFEST,
    check_output_folder,
    foreign_files,
    write_bytes,
    write_json,
)
from phi3quant.errors import OutputError


def artifact(folder: Path, *names: str) -> None:
    """A folder with a manifest that lists its files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("whole")
    write_json(folder / MANIFEST, {"schema": 1, "files": {name: {} for name in names}})


def test_files_that_no_manifest_lists_are_foreign(tmp_path: Path) -> None:
    artifact(tmp_path, "model.safetensors", "sub/tokenizer.json")
    artifact(tmp_path / "onnx", "model.onnx")
    (tmp_path / ".DS_Store").write_text("")
    assert not list(foreign_files(tmp_path))
    (tmp_path / "notes.txt").write_text("precious")
    (tmp_path / "onnx" / "model.safetensors").write_text("precious")
    (tmp_path / "sub" / "link").symlink_to("/")
    assert list(foreign_files(tmp_path)) == ["notes.txt", "onnx/model.safetensors", "sub/link"]


@pytest.mark.parametrize("content", ["{}", "not JSON", '{"schema": 1, "files": []}', "[" * 10**5])
def test_a_manifest_that_phi3quant_did_not_write_protects_the_folder(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / MANIFEST).write_text(content)
    (tmp_path / "letters").write_text("precious")
    with pytest.raises(OutputError, match=r"holds letters, phi3quant\.json, not made by phi3quant"):
        check_output_folder(tmp_path, overwrite=True)


def test_many_foreign_files_are_counted(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / str(number)).write_text("")
    with pytest.raises(OutputError, match="holds 0, 1, 2 and 6 more, not made"):
        check_output_folder(tmp_path, overwrite=True)


@pytest.mark.parametrize("make", ["file", "link"])
def test_a_file_or_a_link_in_place_of_the_output_is_refused(tmp_path: Path, make: str) -> None:
    path = tmp_path / "out"
    if make == "file":
        path.write_text("a file")
    else:
        path.symlink_to(tmp_path)
    with pytest.raises(OutputError, match="not a folder"):
        check_output_folder(path, overwrite=True)


def test_json_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "no space is left"),
        (errno.EIO, "the disk reports an error"),
        (errno.EMFILE, "Too many open files"),
        (errno.EXDEV, "Invalid cross-device link"),
    ],
)
def test_an_error_of_the_system_becomes_a_message_and_leaves_nothing(
    number: int, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match=reason):
        write_bytes(tmp_path / "x", b"new")
    assert not list(tmp_path.iterdir())


def test_the_partial_file_of_a_killed_writer_is_reused(tmp_path: Path) -> None:
    (tmp_path / ".x.phi3quant-partial").write_bytes(b"half of something longer")
    write_bytes(tmp_path / "x", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"new"


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    lock = output._open_locked(tmp_path / ".x.phi3quant-partial", os.O_RDWR | os.O_CREAT)
    assert lock is not None
    with pytest.raises(OutputError, match="another process is writing"):
        write_bytes(tmp_path / "x", b"new")
    os.close(lock)
    write_bytes(tmp_path / "x", b"new")


def test_a_pipe_is_written_to_directly(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_bytes(tmp_path / "pipe", b"text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)


def test_a_name_with_a_nul_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can't hold a NUL"):
        write_bytes(tmp_path / "a\0b", b"")


def test_without_replace_a_file_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"somebody's")
    with pytest.raises(OutputError, match="something else has appeared there"):
        write_bytes(tmp_path / "x", b"new", replace=False)
    assert (tmp_path / "x").read_bytes() == b"somebody's"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    write_bytes(tmp_path / "y", b"new", replace=False)
    assert (tmp_path / "y").read_bytes() == b"new"


def test_a_writer_killed_between_link_and_clean_up_loses_nothing(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x", b"whole")
    os.link(tmp_path / "x", tmp_path / ".x.phi3quant-partial")
    reader = (tmp_path / "x").open("rb")
    write_bytes(tmp_path / "x", b"new")
    assert reader.read() == b"whole"
    reader.close()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_the_message_names_a_model_file_that_cannot_be_read(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"can't make .*out: /model/config\.json: permission"),
        output.clear_os_errors(tmp_path / "out"),
    ):
        raise PermissionError(errno.EACCES, "refused", "/model/config.json")


def test_a_file_system_that_cannot_sync_folders_is_tolerated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("whole")

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", refuse)
    output.sync(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        output.sync(tmp_path / "file")
