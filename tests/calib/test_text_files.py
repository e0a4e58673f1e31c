import datetime as dt
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calib import text_files
from calib.corpus import Corpus, load_corpus, render
from calib.records import Chat
from phi3quant.errors import CorpusError, Phi3QuantError
from phi3quant.source.tokenizer import load_tokenizer
from tests.models import make_tokenizer

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"name": "weather"}]}


def load(path: Path, field: str | None = None, part: str = "calibration") -> Corpus:
    return load_corpus(path, part, field)


def lines(folder: Path, *records: Any) -> Path:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def turns(corpus: Corpus) -> list[Any]:
    return [
        document if isinstance(document, str) else document.plain() for document in corpus.documents
    ]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.jsonl"])
def test_a_byte_order_mark_is_ignored(tmp_path: Path, name: str) -> None:
    content = '{"text": "one"}\r\n{"text": "two"}\r\n' if name == "a.jsonl" else "one\n<<<>>>\ntwo"
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert load(tmp_path / name).documents == ("one", "two")


def test_null_rows_are_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"text": None}, {"text": "one"}, {"messages": []}, {"text": None}, None]
    corpus = load(lines(tmp_path, *rows))
    assert corpus.documents == ("one",)
    assert corpus.notes == ("rows without text skipped (4)",)
    assert corpus.as_json()["text_notes"] == list(corpus.notes)
    assert caplog.messages == [f"{tmp_path / 'a.jsonl'}: {corpus.notes[0]}"]
    with pytest.raises(CorpusError, match=r"holds no text; rows without text skipped \(2\)"):
        load(lines(tmp_path, {"text": None}, {"text": None}))


def test_a_manifest_has_notes_only_if_records_were_skipped(tmp_path: Path) -> None:
    assert set(load(lines(tmp_path, {"text": "one"})).as_json()) == {"text", "text_sha256"}


def test_an_empty_field_is_skipped_in_favour_of_another(tmp_path: Path) -> None:
    assert turns(load(lines(tmp_path, {"text": "", "messages": CHAT}))) == [CHAT]


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


@pytest.mark.parametrize(
    ("part", "option"), [("calibration", "--calib-field"), ("evaluation", "--text-field")]
)
def test_the_message_for_a_missing_field_names_the_option(
    tmp_path: Path, part: str, option: str
) -> None:
    with pytest.raises(CorpusError, match=f"it has body. Name the right one with {option}"):
        load(lines(tmp_path, {"body": "a"}), part=part)


CHATS = {
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
        CHAT,
    ),
    "sharegpt with a system text": (
        {"system": "Be brief.", "conversations": [{"from": "human", "value": "Hi"}]},
        [{"role": "system", "content": "Be brief."}, CHAT[0]],
    ),
    "messages as JSON text": ({"messages": json.dumps(CHAT)}, CHAT),
    "text that begins like JSON": ({"messages": "[sic] Hi"}, "[sic] Hi"),
    "plain text that contains JSON": ({"text": json.dumps(CHAT)}, json.dumps(CHAT)),
    "tool calls": ({"messages": [CHAT[0], CALL]}, [CHAT[0], CALL]),
    "keys of a turn": (
        {"messages": [{"tools": "[]", "content": "a", "role": "system", "name": None}]},
        [{"role": "system", "content": "a", "tools": "[]"}],
    ),
    "content in parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    ),
    "tools": (
        {"messages": CHAT, "tools": [{"name": "weather"}]},
        {"messages": CHAT, "tools": [{"name": "weather"}]},
    ),
    "tools as text": (
        {"messages": CHAT, "tools": '[{"name": "weather"}]'},
        {"messages": CHAT, "tools": [{"name": "weather"}]},
    ),
}


@pytest.mark.parametrize("form", CHATS)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_chats_of_every_format_are_read(tmp_path: Path, form: str, suffix: str) -> None:
    record, expected = CHATS[form]
    if suffix == ".jsonl":
        path = lines(tmp_path, record)
    else:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.Table.from_pylist([record]), path)
    assert turns(load(path)) == [expected]


def test_a_template_receives_all_keys_and_the_tools(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(
        "{% for t in tools or [] %}{{ t.name }} {% endfor %}{% for m in messages %}"
        "{{ m.tool_calls[0].name if m.tool_calls else m.content }} {% endfor %}"
    )
    corpus = load(lines(tmp_path, {"messages": [CHAT[0], CALL], "tools": [{"name": "clock"}]}))
    assert render(corpus, load_tokenizer(tmp_path)) == "clock Hi weather "


REFUSING = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turns') }}"
    "{% endif %}{{ m.content }}\n{% endfor %}"
)


def test_system_turns_of_bundled_chats_are_dropped_if_the_template_refuses_them(
    tmp_path: Path,
) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(REFUSING)
    corpus = load_corpus("general", "calibration")
    chats = [document for document in corpus.documents if isinstance(document, Chat)]
    with_system = [chat for chat in chats if chat.messages[0]["role"] == "system"]
    assert with_system
    text = render(corpus, load_tokenizer(tmp_path))
    for chat in with_system:
        assert chat.messages[0]["content"] + "\n" not in text
        assert chat.messages[1]["content"] in text


def test_the_message_locates_a_chat_that_the_template_refuses(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(REFUSING)
    system = [{"role": "system", "content": "Be brief."}, *CHAT]
    corpus = load(lines(tmp_path, {"messages": CHAT}, {"messages": system}))
    with pytest.raises(CorpusError, match=r"a\.jsonl, line 2: .*no system turns"):
        render(corpus, load_tokenizer(tmp_path))


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


def not_utf8() -> pa.Array:
    return pa.StringArray.from_buffers(
        1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")
    )


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (not_utf8, r"row 1: 'utf-8' codec"),
        (lambda: pa.array([2**62], pa.timestamp("us")), "row 1"),
        (lambda: pa.array([dt.date(2025, 1, 1)]), "neither text nor a list"),
        (lambda: pa.array([1.5]), "neither text nor a list"),
        (lambda: pa.array([b"\xff"]), "neither text nor a list"),
        (lambda: pa.array([[["a"]]]), "turn 1: it is of type list"),
        (
            lambda: pa.array([[{"role": "user", "content": b"\xff"}]]),
            "its content is of type bytes",
        ),
        (
            lambda: pa.array([[{"role": "user", "content": "a", "at": dt.date(2025, 1, 1)}]]),
            "date is not JSON serializable",
        ),
    ],
)
def test_a_column_of_an_unsupported_type_is_refused(
    tmp_path: Path, column: Callable[[], pa.Array], message: str
) -> None:
    pq.write_table(pa.table({"messages": column()}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=message):
        load(tmp_path / "a.parquet")


def test_columns_that_are_not_needed_are_not_read(tmp_path: Path) -> None:
    table = pa.table({"text": ["one"], "at": pa.array([2**62], pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet").documents == ("one",)


@pytest.mark.parametrize("nested", [False, True])
def test_huge_rows_that_share_one_value_are_read_one_by_one(
    tmp_path: Path, *, nested: bool
) -> None:
    size = 10 << 20
    text = "a" * size
    row: Any = [{"role": "user", "content": text}] if nested else text
    table = pa.table({"messages": [row] * 12})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, compression="zstd")
    del table, row
    assert path.stat().st_size < 100_000
    pool = pa.system_memory_pool()
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        peak = pool.max_memory()
        corpus = load(path)
    finally:
        pa.set_memory_pool(before)
    assert len(corpus.documents) == 4
    assert pool.max_memory() - peak < 11 * size


def test_a_parquet_file_that_expands_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["a" * 1_000_000] * 12, "other": ["b" * 2_000_000] * 12})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    monkeypatch.setattr(text_files, "_MAX_EXPANDED", 13_000_000)
    assert len(load(path).documents) == 12
    monkeypatch.setattr(text_files, "_MAX_EXPANDED", 11_000_000)
    with pytest.raises(CorpusError, match=r"row 1: the column text expands .* to 12,000,"):
        load(path)


def test_the_message_names_a_folder_that_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = folder_with(tmp_path)

    def refuse(path: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(Phi3QuantError, match="texts can't be read: Permission denied"):
        load(texts)
