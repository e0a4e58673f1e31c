import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phi3quant.errors import CorpusError, on_the_command_line
from tests.calib.texts import CALL, CHAT, lines, load, turns


def test_an_empty_field_is_skipped_in_favour_of_another(tmp_path: Path) -> None:
    assert turns(load(lines(tmp_path, {"text": "", "messages": CHAT}))) == [CHAT]


@pytest.mark.parametrize(
    ("part", "option"),
    [("calibration", "--calib-field"), ("evaluation", "--text-field")],
)
def test_the_message_for_a_missing_field_names_the_option(
    tmp_path: Path, part: str, option: str
) -> None:
    message = f"it has body. Name the right one with {option}"
    with on_the_command_line(), pytest.raises(CorpusError, match=message):
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
    "tools next to sharegpt": (
        {
            "conversations": [
                {"from": "human", "value": "How warm is it?"},
                {"from": "function_call", "value": '{"name": "weather"}'},
                {"from": "observation", "value": "21"},
                {"from": "gpt", "value": "21 degrees."},
            ],
            "tools": '[{"name": "weather"}]',
        },
        {
            "messages": [
                {"role": "user", "content": "How warm is it?"},
                {"role": "assistant", "content": '{"name": "weather"}'},
                {"role": "tool", "content": "21"},
                {"role": "assistant", "content": "21 degrees."},
            ],
            "tools": [{"name": "weather"}],
        },
    ),
    "no tools": ({"messages": CHAT, "tools": ""}, CHAT),
    "an empty list of tools": ({"messages": CHAT, "tools": "[]"}, CHAT),
    "functions": (
        {"messages": CHAT, "functions": [{"name": "weather"}]},
        {
            "messages": CHAT,
            "tools": [{"type": "function", "function": {"name": "weather"}}],
        },
    ),
    "documents": (
        {"messages": CHAT, "documents": [{"title": "A", "text": "b"}]},
        {"messages": CHAT, "variables": {"documents": [{"title": "A", "text": "b"}]}},
    ),
    "options of the template": (
        {"messages": CHAT, "chat_template_kwargs": {"enable_thinking": False}},
        {"messages": CHAT, "variables": {"enable_thinking": False}},
    ),
    "sharegpt as JSON text": (
        {"conversations": '[{"from": "human", "value": "Hi"}]'},
        [{"role": "user", "content": "Hi"}],
    ),
    "roles in capitals": (
        {"conversations": [{"from": "Human", "value": "Hi"}, {"from": "GPT", "value": "Hello!"}]},
        CHAT,
    ),
    "role and value": ({"conversations": [{"role": "user", "value": "Hi"}]}, CHAT[:1]),
    "from and content": ({"messages": [{"from": "human", "content": "Hi"}]}, CHAT[:1]),
    "a refusal": (
        {"messages": [CHAT[0], {"role": "assistant", "content": None, "refusal": "No."}]},
        [CHAT[0], {"role": "assistant", "content": None, "refusal": "No."}],
    ),
    "a name": (
        {"messages": [{**CHAT[0], "name": "Ann"}]},
        [{**CHAT[0], "name": "Ann"}],
    ),
    "alpaca": ({"instruction": "Hi", "input": "", "output": "Hello!"}, CHAT),
    "alpaca with an input": (
        {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        [
            {"role": "user", "content": "Add.\n\n1 and 2"},
            {"role": "assistant", "content": "3"},
        ],
    ),
    "alpaca with earlier turns": (
        {
            "instruction": "Hi",
            "output": "Hello!",
            "system": "Be brief.",
            "history": [["Who?", "Me."]],
        },
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": "Me."},
            *CHAT,
        ],
    ),
    "prompt and completion": ({"prompt": "The sky ", "completion": "is blue."}, "The sky is blue."),
    "turns of a prompt and a completion": ({"prompt": CHAT[:1], "completion": CHAT[1:]}, CHAT),
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


def test_a_line_can_be_a_list_of_turns(tmp_path: Path) -> None:
    assert turns(load(lines(tmp_path, CHAT, CHAT))) == [CHAT, CHAT]


def test_a_turn_is_not_taken_for_a_document(tmp_path: Path) -> None:
    path = lines(tmp_path, *CHAT)
    with on_the_command_line(), pytest.raises(CorpusError, match="line 1: the record is one turn"):
        load(path)
    assert load(path, "content").documents == ("Hi", "Hello!")


@pytest.mark.parametrize("field", ["messages", "conversations"])
def test_broken_json_text_is_not_taken_for_plain_text(tmp_path: Path, field: str) -> None:
    for text in (json.dumps(CHAT)[:-5], str(CHAT), "[ {'role': 'user'}\n {'role': 'user'}]"):
        with pytest.raises(CorpusError, match=f"line 1: the field {field} is not readable as JSON"):
            load(lines(tmp_path, {field: text}))


def test_keys_that_only_other_rows_have_are_absent(tmp_path: Path) -> None:
    call = {"name": "weather", "arguments": {"city": "Oslo"}}
    other = {"name": "clock", "arguments": {"zone": "UTC"}}
    rows = [
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [each]}]}
        for each in (call, other)
    ]
    rows.append({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]})
    for records in (rows[:2], rows[2:]):
        path = tmp_path / "a.parquet"
        pq.write_table(pa.Table.from_pylist(records), path)
        assert turns(load(path)) == [record["messages"] for record in records]


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "video"])
def test_parts_that_are_not_text_are_left_out_and_counted(tmp_path: Path, kind: str) -> None:
    parts = [{"type": kind, kind: {"url": "data:..."}}, {"type": "text", "text": "Hi"}]
    corpus = load(lines(tmp_path, *[{"messages": [{"role": "user", "content": parts}]}] * 2))
    assert turns(corpus) == [[{"role": "user", "content": parts[1:]}]] * 2
    assert corpus.notes == (f"parts of type {kind} left out, since only text is read (2)",)


def test_documents_of_another_form_are_left_out_and_counted(tmp_path: Path) -> None:
    corpus = load(lines(tmp_path, {"messages": CHAT, "documents": ["a"]}))
    assert turns(corpus) == [CHAT]
    assert corpus.notes == ("documents left out, since they aren't objects with title and text",)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "", "note": "x" * 100}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"a": "x" * 100}]}]},
        {"messages": [{"role": "user", "content": "x"}], "tools": [{"a": "x" * 100}]},
    ],
)
def test_the_limit_of_text_counts_all_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: dict[str, object]
) -> None:
    monkeypatch.setattr("calib.corpus.MAX_CHARACTERS", 1000)
    assert len(load(lines(tmp_path, *[row] * 50)).documents) < 10
