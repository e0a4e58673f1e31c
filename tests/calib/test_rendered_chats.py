"""Chats of the user's and of the bundled texts, rendered by a model's template."""

from pathlib import Path

import pytest

from calib.corpus import load_corpus, render
from calib.records import Chat
from phi3quant.errors import CorpusError
from phi3quant.source.tokenizer import load_tokenizer
from tests.calib.texts import CALL, CHAT, lines, load
from tests.models import make_tokenizer


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
    tmp_path: Path, caplog: pytest.LogCaptureFixture
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
    reason = "the model's chat template failed: no system turns"
    assert caplog.messages == [f"general/calibration: system turns left out, since {reason}"]


def test_the_message_locates_a_chat_that_the_template_refuses(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(REFUSING)
    system = [{"role": "system", "content": "Be brief."}, *CHAT]
    corpus = load(lines(tmp_path, {"messages": CHAT}, {"messages": system}))
    with pytest.raises(CorpusError, match=r"a\.jsonl, line 2: .*no system turns"):
        render(corpus, load_tokenizer(tmp_path))


def test_text_in_parts_is_joined_with_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_tokenizer(tmp_path)
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]
    chat = {"messages": [{"role": "user", "content": parts}]}
    corpus = load(lines(tmp_path, chat, chat))
    text = render(corpus, load_tokenizer(tmp_path))
    assert text == "\n\n".join(["<|user|>\nHi\nthere<|end|>\n"] * 2)
    assert len(caplog.messages) == 1
    assert "joined by line breaks" in caplog.messages[0]


def test_a_template_receives_documents_and_options(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ documents[0].text }} {{ tone }}")
    record = {
        "messages": CHAT,
        "documents": [{"text": "b"}],
        "chat_template_kwargs": {"tone": "kind"},
    }
    assert render(load(lines(tmp_path, record)), load_tokenizer(tmp_path)) == "b kind"


def test_the_message_for_a_turn_without_content_counts_the_turns(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ '>' + m.content }}{% endfor %}"
    )
    corpus = load(lines(tmp_path, {"messages": [CHAT[0], CALL, CALL]}))
    with pytest.raises(CorpusError, match=r"line 1: .*\(without content: turn 2, 3\)"):
        render(corpus, load_tokenizer(tmp_path))


def test_a_template_that_expands_chats_without_end_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ 'a' * 1000 }}")
    corpus = load(lines(tmp_path, *[{"messages": CHAT}] * 5))
    monkeypatch.setattr("calib.corpus.MAX_CHARACTERS", 1000)
    with pytest.raises(CorpusError, match="into more than 4,000 characters; give less text"):
        render(corpus, load_tokenizer(tmp_path))
