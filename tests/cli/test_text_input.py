"""Text and templates from outside, as commands read them."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from phi3quant.cli.main import main
from phi3quant.source.locate import bundled_folder

ESCAPE = "\x1b]0;owned\x07"
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


def model(folder: Path, template: str) -> str:
    """A copy of phi3-tiny with another chat template."""
    shutil.copytree(bundled_folder(), folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(template)
    return str(folder / "model")


def score(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(
        main, ["perplexity", *words, "--window", "16", "--max-tokens", "32"]
    )
    return result.exit_code, result.output


REFUSING = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no \x1b]0;owned\x07"
    "\u202e') }}{% endif %}{{ m.content }}\n{% endfor %}"
)


def test_a_template_writes_nothing_raw_to_the_terminal(tmp_path: Path) -> None:
    path = model(tmp_path, REFUSING)
    code, output = score(path, "--text", "general")
    assert code == 0
    assert "note: general/evaluation: system turns left out" in output.replace("\n", " ")
    assert not {"\x1b", "\x07", "\u202e"} & set(output)
    chats = tmp_path / "a.jsonl"
    chats.write_text(json.dumps({"messages": [{"role": "system", "content": "x"}, *CHAT]}))
    code, output = score(path, "--text", str(chats))
    assert code == 2
    assert "line 1" in output
    assert not {"\x1b", "\x07", "\u202e"} & set(output)


@pytest.mark.parametrize(
    "record",
    [
        {f"a{ESCAPE}": 1},
        {"messages": [{"role": [ESCAPE], "content": "x"}]},
        {"conversations": [{"from": ESCAPE, "value": "x"}]},
        {"messages": [{f"a{ESCAPE}": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": ESCAPE}]}]},
        {"messages": CHAT, "chat_template_kwargs": {"tools": ESCAPE}},
    ],
)
def test_a_record_writes_nothing_raw_to_the_terminal(
    tmp_path: Path, record: dict[str, object]
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(record, ensure_ascii=False))
    code, output = score("phi3-tiny", "--text", str(tmp_path / "a.jsonl"))
    assert code == 2
    assert "a.jsonl, line 1" in output.replace("\n", "")
    assert not {"\x1b", "\x07"} & set(output)


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("perplexity", "phi3-tiny", "--text"), "--text-field"),
        (("evaluate", "phi3-tiny", "--text"), "--text-field"),
        (("awq", "phi3-tiny", "-o", "out", "--no-verify", "--calib"), "--calib-field"),
        (("gptq", "phi3-tiny", "-o", "out", "--no-verify", "--calib"), "--calib-field"),
    ],
)
def test_advice_names_an_option_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"body": "x"}')
    result = CliRunner().invoke(main, [*words, "a.jsonl"])
    assert result.exit_code == 2
    assert f"Name the right one with {option}" in " ".join(result.output.split())
    assert option in CliRunner().invoke(main, [words[0], "--help"]).output
