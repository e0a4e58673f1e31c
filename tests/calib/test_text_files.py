import os
import socket
from pathlib import Path
from typing import Any

import pytest

from calib import text_files
from phi3quant.errors import CorpusError, Phi3QuantError
from tests.calib.texts import lines, load

CONTENTS = {
    "a.txt": "one\n<<<>>>\ntwo",
    "a.md": "one\n<<<>>>\ntwo",
    "a.jsonl": '{"text": "one"}\n{"text": "two"}\n',
    "a.json": '[\n{"text": "one"},\n{"text": "two"}]\n',
    "lines.json": '{"text": "one"}\n{"text": "two"}\n',
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_order_marks_and_windows_line_ends_change_nothing(
    tmp_path: Path, name: str, mark: bytes, end: str
) -> None:
    (tmp_path / name).write_bytes(mark + CONTENTS[name].replace("\n", end).encode())
    assert load(tmp_path / name).documents == ("one", "two")


@pytest.mark.parametrize("suffix", [".txt", ".md"])
def test_windows_line_ends_inside_a_text_are_mended(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(b"one\r\ntwo\rthree\n")
    assert load(tmp_path / f"a{suffix}").documents == ("one\ntwo\rthree\n",)


def test_null_rows_are_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"text": None}, {"text": "one"}, {"messages": []}, {"text": None}, None, []]
    rows += [{"text": ""}, {"text": " \n"}, {"instruction": "", "output": None}]
    rows += [{"prompt": "", "completion": ""}, {"prompt": [], "completion": []}]
    corpus = load(lines(tmp_path, *rows))
    assert corpus.documents == ("one",)
    assert corpus.notes == ("rows without text skipped (10)",)
    assert corpus.as_json()["text_notes"] == list(corpus.notes)
    assert caplog.messages == [f"{tmp_path / 'a.jsonl'}: {corpus.notes[0]}"]
    with pytest.raises(CorpusError, match=r"holds no text; rows without text skipped \(2\)"):
        load(lines(tmp_path, {"text": None}, {"text": None}))


def test_a_manifest_has_notes_only_if_records_were_skipped(tmp_path: Path) -> None:
    assert set(load(lines(tmp_path, {"text": "one"})).as_json()) == {"text", "text_sha256"}


def test_half_of_an_emoji_becomes_the_replacement_character(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(r'{"text": "a \ud83d b \ud83d\ude42 \\ud83d"}')
    assert load(tmp_path / "a.jsonl").documents == ("a \ufffd b 🙂 \\ud83d",)


@pytest.mark.parametrize(
    ("position", "waiting"), [(0, b""), ((1 << 20) - 1, "é".encode()[:1]), (3_000_000, b"")]
)
def test_the_message_locates_bad_utf8(tmp_path: Path, position: int, waiting: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(b"a" * position + waiting + b"\xff" + b"b" * 100)
    with pytest.raises(CorpusError, match=rf"not UTF-8 \(byte {position}:"):
        load(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": ' + b"[" * 100_000, "line 1 is not readable as JSON: it is nested too deeply"),
        (b'{"text": ' + b'{"a":' * 100_000 + b"1", "nested too deeply"),
        (b'{"text": "a"}\n{"text": ' + b"9" * 5000 + b"}", "line 2"),
        (b'{"text": NaN}', "line 1"),
        ('{"text": "a"}'.encode("utf-16"), "not UTF-8"),
        (b'"a"\n5', "line 2: a record must be an object"),
        (b'{"messages": [5]}', r"line 1, messages, turn 1: it is of type int"),
        (b'{"messages": [{"role": 5, "content": "a"}]}', "turn 1: its role is 5"),
        (b'{"messages": [{"role": "user"}]}', "turn 1: its content is null"),
        (b'{"messages": [{"role": "user", "text": "a"}]}', "turn 1: its content is null"),
        (b'{"messages": [{"role": "user", "content": null, "name": "a"}]}', "content is null"),
        (b'{"messages": [{"role": "user", "content": [5]}]}', "a part of its content is of type"),
        (b'{"conversations": [{"from": "human", "value": null}]}', "its value is null"),
        (b'{"instruction": 5, "output": "a"}', "instruction is of type int, not text"),
        (b'{"instruction": "a", "output": "a", "history": [["a"]]}', "history has an entry"),
        (b'{"prompt": [], "completion": "a"}', "prompt is of type list, not text"),
        (
            b'{"messages": [{"role": "user", "content": "a"}], "tools": ["a"]}',
            "tools lists a value",
        ),
        (
            b'{"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": [1]}',
            "chat_template_kwargs is of type list",
        ),
        (
            b'{"chat_template_kwargs": {"tools": 1}, "messages": [{"role": "u", "content": "a"}]}',
            "chat_template_kwargs can't set tools",
        ),
        (b'{"messages": [{"role": "user", "content": 5}]}', "turn 1: its content is of type int"),
        (b'{"messages": [{"a": 1}]}', "turn 1: it has a, but needs role and content"),
        (b'{"conversations": [{"from": "cow", "value": "moo"}]}', "its from is 'cow'"),
        (b'{"messages": [{"role": "user", "content": "a"}], "tools": 5}', "tools is of type int"),
        (
            b'{"messages": [{"role": "user", "content": "a"}], "tools": "{\\"name\\": 1}"}',
            "tools is of type dict",
        ),
        (
            b'{"messages": [{"role": "user", "content": "a"}], "tools": "[{\\"name"}',
            "tools is not readable as JSON",
        ),
    ],
)
def test_the_message_for_a_bad_line_has_its_number(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        load(tmp_path / "a.jsonl")


def test_an_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "_MAX_LINE", 1000)
    with pytest.raises(CorpusError, match=r"line 2 has more than 1,000 characters"):
        load(lines(tmp_path, {"text": "a" * 900}, {"text": "a" * 1000}))


def folder_with(folder: Path) -> Path:
    texts = folder / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("one")
    return texts


def test_only_regular_files_of_a_folder_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = folder_with(tmp_path)
    (texts / "notes.txt").mkdir()
    (texts / "notes.txt" / "b.txt").write_text("two")
    os.mkfifo(texts / "pipe.txt")
    (texts / "dangling.txt").symlink_to("nowhere")
    (texts / "loop.txt").symlink_to("loop.txt")
    (texts / "up").symlink_to("..")
    (texts / "up.txt").symlink_to("..")
    (texts / "c.txt").symlink_to(texts / "a.txt")
    monkeypatch.chdir(texts)  # paths of sockets must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.txt")
        corpus = load(texts)
    assert corpus.documents == ("one", "one", "two")
    skipped = ("dangling", "loop", "pipe", "socket")
    assert corpus.notes == tuple(
        f"{texts / name}.txt skipped: not a regular file" for name in skipped
    )


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(CorpusError, match="neither a regular file nor a folder"):
        load(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["a" * 300 + ".txt", "a\0.txt", "a.txt/b.txt"])
def test_an_impossible_file_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text("one")
    with pytest.raises(CorpusError, match="there is no text"):
        load(tmp_path / name)


def test_the_message_names_a_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("one")

    def refuse(*_arguments: Any, **_named: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CorpusError, match=r"a\.txt can't be read: Permission denied"):
        load(tmp_path / "a.txt")


def test_the_message_names_a_folder_that_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = folder_with(tmp_path)

    def refuse(path: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(Phi3QuantError, match="texts can't be read: Permission denied"):
        load(texts)


def test_json_files_of_a_folder_are_skipped_and_counted(tmp_path: Path) -> None:
    texts = folder_with(tmp_path)
    for name in ("dataset_info.json", "more.json"):
        (texts / name).write_text('[{"text": "two"}]')
    corpus = load(texts)
    assert corpus.documents == ("one",)
    assert corpus.notes == (".json files in the folder skipped; give such a file by itself (2)",)
