import json
import shutil
from pathlib import Path

import pytest

from phi3quant.errors import TokenizerError
from phi3quant.source.locate import bundled_folder
from phi3quant.source.tokenizer import load_tokenizer
from tests.models import make_tokenizer

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_tokenizer(tmp_path)
    return tmp_path


def test_encoding_and_decoding_keep_the_text_and_add_no_tokens(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("The river rose. Überall!")
    assert tokenizer.decode(ids) == "The river rose. Überall!"
    assert not {0, 1, 2} & set(ids)


def test_special_tokens_in_text_become_their_ids(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode("<|user|>")[0] == 3
    assert tokenizer.encode("<|end|>") == [6]


def test_a_chat_without_a_template_gets_phi3s_format(folder: Path) -> None:
    rendered = load_tokenizer(folder).render_chat(CHAT, add_generation_prompt=True)
    assert rendered == "<|user|>\nHi<|end|>\n<|assistant|>\nHello!<|end|>\n<|assistant|>\n"


@pytest.mark.parametrize("where", ["config", "jinja", "list"])
def test_the_models_own_template_is_used(folder: Path, where: str) -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    )
    settings: dict[str, object] = {"bos_token": {"content": "<s>"}}
    if where == "jinja":
        (folder / "chat_template.jinja").write_text(template)
    elif where == "list":
        settings["chat_template"] = [{"name": "default", "template": template}]
    else:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(folder).render_chat(CHAT) == "<s>[user] Hi\n[assistant] Hello!\n"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for",
        "{{ raise_exception('only one turn') }}",
    ],
)
def test_a_template_that_fails_or_escapes_is_refused(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(TokenizerError, match="chat template failed"):
        load_tokenizer(folder).render_chat(CHAT)


def test_phi3_tinys_template_equals_transformers() -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(bundled_folder())
    bundled = load_tokenizer(bundled_folder())
    for chat in (CHAT, [{"role": "system", "content": "Be brief."}, *CHAT]):
        expected = reference.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert bundled.render_chat(chat, add_generation_prompt=True) == expected
        assert bundled.encode(expected) == reference.encode(expected, add_special_tokens=False)


def test_tokenizer_model_gives_the_ids_of_tokenizer_json(tmp_path: Path) -> None:
    for name in ("tokenizer.model", "tokenizer_config.json", "added_tokens.json"):
        shutil.copyfile(bundled_folder() / name, tmp_path / name)
    slow, fast = load_tokenizer(tmp_path), load_tokenizer(bundled_folder())
    for text in (
        "Nora owned a small red key.",
        "<|user|>\nWhat is the opposite of hot?<|end|>\n<|assistant|>\n",
        "two  spaces, naïve café 北 and\n\nlines",
    ):
        assert slow.encode(text) == fast.encode(text)
    text = "Nora owned a small red key.<|end|>"
    assert slow.decode(slow.encode(text)) == fast.decode(fast.encode(text)) == text


def test_the_message_for_a_missing_tokenizer_gives_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="copy the tokenizer files"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_the_message_names_a_broken_tokenizer_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("not a tokenizer")
    with pytest.raises(TokenizerError, match=f"{name} (can't be read|is not readable)"):
        load_tokenizer(tmp_path)
