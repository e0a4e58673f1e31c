"""Every template with every chat: the same text as transformers', or a failure in both."""

import datetime as dt
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from phi3quant.errors import TokenizerError
from phi3quant.source.tokenizer import Tokenizer, load_tokenizer
from tests.models import make_tokenizer
from tests.source.templates import CHATS, TEMPLATES, TOOLS

FAILED = "failed"

SETTINGS: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<unk>",
    "additional_special_tokens": ["<|user|>"],
    "image_token": "<|image|>",
    "add_bos_token": True,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(SETTINGS))
    return folder


def both(folder: Path, chat: Any, **options: Any) -> tuple[str, str]:
    """Texts by phi3quant and by transformers."""
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = load_tokenizer(folder)
    apply = partial(theirs.apply_chat_template, chat, tokenize=False, **options)
    return _text(partial(ours.render_chat, chat, **options)), _text(apply)


def _text(render: Callable[[], str]) -> str:
    try:
        return render()
    except Exception:  # noqa: BLE001 - jinja's many types
        return FAILED


@pytest.mark.parametrize("style", TEMPLATES)
def test_texts_equal_transformers(model: Path, style: str) -> None:
    (model / "chat_template.jinja").write_text(TEMPLATES[style])
    theirs = AutoTokenizer.from_pretrained(model)
    ours = load_tokenizer(model)
    rendered = 0
    for name, chat in CHATS.items():
        for tools in (None, list(TOOLS)):
            for prompt in (False, True):
                options: dict[str, Any] = {"tools": tools, "add_generation_prompt": prompt}
                apply = partial(theirs.apply_chat_template, chat, tokenize=False, **options)
                text = _text(partial(ours.render_chat, chat, **options))
                assert text == _text(apply), name
                rendered += text != FAILED
    assert (rendered == 0) == (style in ("unknown tag", "unknown function", "attack"))


VARIABLES: dict[str, dict[str, Any]] = {
    "documents": {"documents": [{"title": "A", "text": "b"}]},
    "an option": {"enable_thinking": False},
    "another special token": {"bos_token": "<other>"},
}


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_equal_transformers(model: Path, name: str) -> None:
    (model / "chat_template.jinja").write_text(
        "{{ documents }}{{ enable_thinking is defined }}{{ bos_token }}"
    )
    theirs = AutoTokenizer.from_pretrained(model)
    expected = theirs.apply_chat_template(CHATS["turns"], tokenize=False, **VARIABLES[name])
    ours = load_tokenizer(model)
    assert ours.render_chat(CHATS["turns"], variables=VARIABLES[name]) == expected


DATES = ("%d %b %Y", "%Y-%m-%dT%H:%M:%S", "%Z%z|%j|%%", "%d %B %Y, %A %I %p")


@pytest.mark.parametrize("form", DATES)
def test_dates_equal_transformers(model: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = dt.datetime(2031, 2, 3, 16, 5, 6)  # noqa: DTZ001 - as transformers has it

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> "Clock":
            assert tz is None
            return cls(2031, 2, 3, 16, 5, 6)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    (model / "chat_template.jinja").write_text(f"{{{{ strftime_now('{form}') }}}}")
    theirs = AutoTokenizer.from_pretrained(model)
    expected = theirs.apply_chat_template(CHATS["question"], tokenize=False)
    assert load_tokenizer(model).render_chat(CHATS["question"], now=now) == expected


def test_a_chat_without_a_date_always_renders_alike(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ strftime_now('%Y-%m-%d %H') }}")
    assert load_tokenizer(model).render_chat(CHATS["question"]) == "2025-01-01 12"


TOKENS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "none": ({}, None),
    "an older file": ({"bos_token": "<s>"}, {"bos_token": "<unk>", "pad_token": "<unk>"}),
    "an older file with null": ({"bos_token": "<s>"}, {"bos_token": None}),
    "an older file that is not read": (
        {"bos_token": "<s>", "added_tokens_decoder": {"1": {"content": "<s>", "special": True}}},
        {"bos_token": "<unk>", "pad_token": "<unk>"},
    ),
    "named extras": ({"extra_special_tokens": {"image_token": "<i>", "audio": "<a>"}}, None),
    "named extras over a key": (
        {"extra_special_tokens": {"image_token": "<i>"}, "image_token": "<j>"},
        None,
    ),
    "named extras in an older file": ({}, {"extra_special_tokens": {"image_token": "<i>"}}),
    "a list of extras": ({"extra_special_tokens": ["<i>"], "bos_token": "<s>"}, None),
    "additional tokens": ({"additional_special_tokens": ["<i>"]}, None),
    "a key of its own": ({"image_token": "<i>", "add_bos_token": "yes"}, None),
    "an object": ({"bos_token": {"__type": "AddedToken", "content": "<s>"}}, None),
    "an object in an older file": ({}, {"image_token": {"content": "<i>"}}),
    "no text": ({"bos_token": "", "pad_token": None}, None),
    "gpt2's defaults": ({"tokenizer_class": "GPT2Tokenizer"}, None),
    "not gpt2's defaults": ({"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>"}, None),
    "llama's class": ({"tokenizer_class": "LlamaTokenizer", "eos_token": "</s>"}, None),
}


@pytest.mark.parametrize("form", TOKENS)
def test_special_tokens_equal_transformers(tmp_path: Path, form: str) -> None:
    make_tokenizer(tmp_path)
    settings, older = TOKENS[form]
    template = TEMPLATES["special tokens"]
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, **settings}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    if older is not None:
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(older))
    ours, theirs = both(tmp_path, CHATS["question"])
    assert ours == theirs != FAILED


SETTING, FILE, TOOL_FILE, DEFAULT_FILE = "setting", "file", "tool file", "default file"
SINGLE = "settings {{ messages | length }}"
NAMED = [
    {"name": "default", "template": "list"},
    {"name": "tool_use", "template": "list with tools"},
]

PLACES: dict[str, dict[str, Any]] = {
    "settings": {SETTING: SINGLE},
    "a file": {FILE: "file"},
    "a file over settings": {SETTING: SINGLE, FILE: "file"},
    "a list": {SETTING: NAMED},
    "a list of one": {SETTING: NAMED[:1]},
    "a file over a list": {SETTING: NAMED, FILE: "file"},
    "a file and one for tools": {FILE: "file", TOOL_FILE: "file with tools"},
    "two files over settings": {SETTING: NAMED, FILE: "file", TOOL_FILE: "file with tools"},
    "a default in the folder": {FILE: "file", DEFAULT_FILE: "another file"},
    "windows line ends": {FILE: "one\r\ntwo"},
    "only a file for tools": {SETTING: SINGLE, TOOL_FILE: "file with tools"},
    "a list without a default": {SETTING: NAMED[1:]},
}


@pytest.mark.parametrize("place", PLACES)
def test_templates_are_searched_where_transformers_does(tmp_path: Path, place: str) -> None:
    make_tokenizer(tmp_path)
    contents = PLACES[place]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if SETTING in contents:
        settings["chat_template"] = contents[SETTING]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    files = {
        FILE: "chat_template.jinja",
        TOOL_FILE: "additional_chat_templates/tool_use.jinja",
        DEFAULT_FILE: "additional_chat_templates/default.jinja",
    }
    for key, name in files.items():
        if key in contents:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(contents[key].encode())
    for tools in (None, list(TOOLS)):
        if tools is not None and place in ("only a file for tools", "a list without a default"):
            continue  # refused as a whole, since chats without tools have no template
        chat = CHATS["question"]
        theirs = AutoTokenizer.from_pretrained(tmp_path)
        apply = partial(theirs.apply_chat_template, chat, tools=tools, tokenize=False)
        assert _text(partial(_render, tmp_path, chat, tools)) == _text(apply)


def _render(folder: Path, chat: Any, tools: Any) -> str:
    return load_tokenizer(folder).render_chat(chat, tools=tools)


def test_the_template_of_a_processor_is_the_last_resort(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "processor"}))
    assert load_tokenizer(tmp_path).render_chat(CHATS["question"]) == "processor"
    settings = {"chat_template": "tokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(tmp_path).render_chat(CHATS["question"]) == "tokenizer"


def test_a_huge_template_file_is_refused(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("a" * (1 << 20) + "b")
    with pytest.raises(TokenizerError, match=r"chat_template\.jinja has more than 1 MiB"):
        load_tokenizer(tmp_path)


PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]


def with_template(folder: Path, template: str) -> Tokenizer:
    make_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(template)
    return load_tokenizer(folder)


def test_a_template_that_reads_parts_receives_them(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": PARTS}]
    with_template(tmp_path, TEMPLATES["content parts"])
    ours, theirs = both(tmp_path, chat)
    assert ours == theirs == "<|user|>onetwo<|end|>"


@pytest.mark.parametrize("style", ["phi-3.5", "phi-4", "phi-4-mini", "strict turns"])
def test_a_template_that_takes_only_text_receives_text(tmp_path: Path, style: str) -> None:
    tokenizer = with_template(tmp_path, TEMPLATES[style])
    text = tokenizer.render_chat([{"role": "user", "content": PARTS}])
    assert text == tokenizer.render_chat([{"role": "user", "content": "one\ntwo"}])


def test_a_part_without_text_requires_a_template_that_reads_parts(tmp_path: Path) -> None:
    tokenizer = with_template(tmp_path, TEMPLATES["phi-4"])
    with pytest.raises(TokenizerError, match="a turn has a part of type 'tool_use'"):
        tokenizer.render_chat([{"role": "user", "content": [{"type": "tool_use", "id": 1}]}])
