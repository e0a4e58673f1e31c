import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phi3quant.errors import TokenizerError
from phi3quant.source import chat_template
from phi3quant.source.chat_template import render_template
from phi3quant.source.tokenizer import load_tokenizer
from tests.models import make_tokenizer

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
TOOL = {"name": "weather", "parameters": {"city": "Żory"}}

RENDERED = {
    "plain": "{% for m in messages %}\n{{ m.role }}\n{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}!"
    "{% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.index0 %}{% break %}{% endif %}{{ m.role }}"
    "{% endfor %}",
    "tools and documents": "{{ tools is none }} {{ documents is none }}",
    "prompt": "{{ add_generation_prompt }}",
    "tojson": "{{ messages[0].tool | tojson }} {{ messages[0].tool | tojson(indent=2) }} "
    "{{ messages[0].tool | tojson(ensure_ascii=true, separators=(',', ':'), sort_keys=true) }}",
    "namespace": "{% set n = namespace(a=1) %}{% for m in messages %}{% set n.a = n.a + 1 %}"
    "{% endfor %}{{ n.a }} {{ dict(a=1) }} {{ dict.fromkeys([1], 2) }}",
    "reasoning": "{{ messages[1].reasoning_content }} {{ messages[1].thinking }}",
    "undefined": "{{ nowhere }}{% if nowhere %}x{% endif %}",
    "macro": "{% macro say(x) %}<{{ x }}>{% endmacro %}{{ say(messages[0].content) }}",
}


@pytest.mark.parametrize("name", RENDERED)
def test_rendered_text_equals_transformers(name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    chat: list[dict[str, Any]] = [
        {**CHAT[0], "tool": TOOL},
        {**CHAT[1], "reasoning": "greet back"},
    ]
    (expected,), _ = render_jinja_template(
        [chat], chat_template=RENDERED[name], add_generation_prompt=True
    )
    variables = {"messages": chat, "tools": None, "documents": None, "add_generation_prompt": True}
    assert render_template(RENDERED[name], variables) == expected


REFUSED = {
    "zero": ("{{ 1/0 }}", "division by zero"),
    "modulo": ("{{ 5 % (3 - 3) }}", "division by zero"),
    "range": ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    "recursion": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested too deeply"),
    "parentheses": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deeply"),
    "open parentheses": ("{{ " + "(" * 5000, "nested too deeply"),
    "lists": ("{{ " + "[" * 150 + "1" + "]" * 150 + " }}", "failed"),
    "surrogate": ("{{ '\\ud800' }}", "half of a surrogate pair"),
    "loops": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "more than 1 s",
    ),
    "power": ("{{ (10**8) ** (10**8) }}", "more than 1 s"),
    "repeat": ("{{ 'a' * 3000000000 }}", "512 MiB of memory"),
    "repeat a list": ("{{ ([1] * 3000000000) | length }}", "512 MiB of memory"),
    "pad": ("{{ 'a'.center(3000000000) }}", "512 MiB of memory"),
    "long output": ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "characters"),
    "digits": ("{{ 10**5000 }}", "4300 digits"),
    "class": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "append": ("{{ messages.append(1) }}", "unsafe"),
    "namespace": ("{{ namespace(__class__=1) }}", "__class__"),
    "syntax": ("\n{% for", "line 2"),
    "unknown tag": ("{% nowhere %}", "unknown tag 'nowhere'"),
    "unknown filter": ("{{ 1 | nowhere }}", "nowhere"),
    "undefined function": ("{{ nowhere() }}", "'nowhere' is undefined"),
    "include": ("{% include 'x' %}", "no loader"),
    "own error": ("{{ raise_exception('only one turn') }}", "only one turn"),
    "own error without text": ("{{ raise_exception() }}", "failed"),
    "type": ("{{ messages + 1 }}", "can only concatenate"),
    "key": ("{{ 'a' % {} }}{{ '%(x)s' % {} }}", "x"),
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A limit of one second."""
    worker = chat_template._Worker(seconds=1)
    monkeypatch.setattr(chat_template, "_WORKER", worker)
    yield
    worker.close()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", REFUSED)
def test_every_failure_of_a_template_becomes_a_message(name: str) -> None:
    template, reason = REFUSED[name]
    with pytest.raises(TokenizerError, match=r"chat template failed: ") as caught:
        render_template(template, {"messages": CHAT})
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 700
    assert render_template("{{ messages[0].role }}", {"messages": CHAT}) == "user"


def test_a_template_that_is_slow_for_every_chat_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_template, "ALL_CHATS_SECONDS", 0.2)
    monkeypatch.setattr(chat_template, "SECONDS_PER_CHAT", 0.0001)
    slow = "{% for i in range(300) %}{% for j in range(500) %}{% endfor %}{% endfor %}slow"

    def render_all() -> None:
        for _ in range(10_000):
            render_template(slow, {"messages": []})

    with pytest.raises(TokenizerError, match=r"more than 0\.0001 s per chat, for a long time"):
        render_all()
    assert render_template("quick", {"messages": []}) == "quick"


def test_a_slow_chat_among_quick_ones_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "ALL_CHATS_SECONDS", 0.0)
    monkeypatch.setattr(chat_template, "SECONDS_PER_CHAT", 2.0)
    mixed = "{% for i in range(messages[0]) %}{% endfor %}"
    for number in (1, 90_000, 1):
        render_template(mixed, {"messages": [number]})


def test_a_killed_worker_is_replaced() -> None:
    render_template("x", {"messages": []})
    process = chat_template._WORKER._process
    assert process is not None
    process.kill()
    process.wait()
    assert render_template("y", {"messages": []}) == "y"


def test_a_fork_starts_its_own_worker() -> None:
    render_template("x", {"messages": []})
    assert chat_template._WORKER._process is not None
    before = chat_template._WORKER._process.pid
    child = os.fork()
    if child == 0:  # pragma: no cover - in the child
        worker = chat_template._WORKER
        rendered = render_template("y", {"messages": []})
        is_new = worker._process is not None and worker._process.pid != before
        worker.close()
        os._exit(0 if rendered == "y" and is_new else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert render_template("z", {"messages": []}) == "z"
    assert chat_template._WORKER._process.pid == before


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_tokenizer(tmp_path)
    return tmp_path


def test_templates_can_use_special_tokens_by_name(folder: Path) -> None:
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"pad_token": "<p>", "extra_special_tokens": {"video": "<v>"}})
    )
    settings = {
        "bos_token": {"content": "<s>"},
        "add_eos_token": "yes",
        "eos_token": "</s>",
        "add_bos_token": True,
        "extra_special_tokens": {"image_token": "<i>"},
        "chat_template": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ image_token }}"
        "{{ add_bos_token }}{{ add_eos_token }}{{ video }}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(folder).render_chat(CHAT) == "<s></s><p><i><v>"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (["{{ 1 }}"], "not a name and a template"),
        ([{"name": ["default"], "template": ""}], "not a name and a template"),
        ([{"name": "tool_use", "template": "x"}], "no template named default"),
        ([{"name": "default", "template": 5}], "no template named default"),
        ({"tool_use": "x"}, "no template named default"),
        (5, "is 5, neither a template nor a list of templates"),
    ],
)
def test_malformed_templates_are_refused(folder: Path, template: Any, reason: str) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    with pytest.raises(TokenizerError, match=reason):
        load_tokenizer(folder)


def test_a_template_that_is_not_utf8_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"{{ 1 }}\xff")
    with pytest.raises(TokenizerError, match=r"chat_template\.jinja can't be read"):
        load_tokenizer(folder)


def test_a_turn_without_text_requires_a_template(folder: Path) -> None:
    turn: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": []}
    with pytest.raises(TokenizerError, match="no place for a turn without text"):
        load_tokenizer(folder).render_chat([turn])
    (folder / "chat_template.jinja").write_text("{{ messages[0] | tojson }}")
    rendered = load_tokenizer(folder).render_chat([turn])
    assert json.loads(rendered) == {"role": "assistant", "tool_calls": []}
