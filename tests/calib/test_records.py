import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calib.corpus import load_corpus, render
from calib.records import Chat
from phi3quant.errors import CorpusError, on_the_command_line
from phi3quant.source.tokenizer import load_tokenizer
from tests.calib.texts import CALL, CHAT, lines, load, turns
from tests.models import make_tokenizer


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
