import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from converters import open_located
from converters.onnx.genai import generation_ids
from phi3quant.errors import TokenizerError
from phi3quant.gating import facts
from phi3quant.model.config_file import read_config
from phi3quant.source.locate import Located
from tests.models import split_copy

GOOD = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"


@pytest.fixture
def folder(checkpoint_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    copied = tmp_path / "model"
    shutil.copytree(checkpoint_folder("gqa"), copied)
    return copied


def changed(folder: Path, before: str, after: str) -> list[str]:
    """Facts that differ between two templates."""
    stated = []
    for template in (before, after):
        (folder / "chat_template.jinja").write_text(template)
        stated.append(facts.facts(open_located(Located(folder, "model"))))
    changes = facts.changes(stated[0], stated[1], same_kind=True)
    return [name for name, lines in changes.items() if lines]


TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"
ROLE = "{% for m in messages if m.role == 'tool' %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize("branch", [TOOLS, ROLE, "{% if thinking %}<think>{% endif %}"])
def test_templates_that_render_the_trial_chats_alike_are_compared_by_their_text(
    folder: Path, branch: str
) -> None:
    assert changed(folder, GOOD + branch, GOOD + branch) == []
    assert changed(folder, GOOD + branch, GOOD) == [facts.CHAT]
    assert facts.CHAT in changed(folder, GOOD, GOOD.replace("<|end|>", ""))


def test_an_older_baseline_has_no_text_to_compare(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(GOOD)
    present = facts.facts(open_located(Located(folder, "model")))
    older = {name: value for name, value in present.items() if name != facts.TEMPLATE_TEXT}
    assert not any(facts.changes(older, present, same_kind=True).values())


def test_a_template_for_tools_is_compared_within_a_kind(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(GOOD)
    before = facts.facts(open_located(Located(folder, "model")))
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(GOOD + TOOLS)
    after = facts.facts(open_located(Located(folder, "model")))
    (line,) = facts.changes(before, after, same_kind=True)[facts.CHAT]
    assert line.startswith("the text of the template tool_use differs")
    assert not any(facts.changes(before, after, same_kind=False).values())


@pytest.mark.parametrize(
    "broken",
    ["{% nowhere %}", "{{ raise_exception('no') }}", "{{ nowhere() }}", "{{ 1 / 0 }}"],
)
def test_templates_that_fail_alike_are_compared_by_their_text(folder: Path, broken: str) -> None:
    assert changed(folder, GOOD + broken, GOOD + broken) == []
    assert facts.CHAT in changed(folder, GOOD + broken, GOOD.replace("<|end|>", "") + broken)


def test_further_special_tokens_are_no_facts(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "pad_token": "<unk>"}')
    stated = facts.facts(open_located(Located(folder, "model")))
    assert stated[facts.SPECIAL_TOKENS] == {"bos_token": [1]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"bos_token_id": 320}', "bos_token_id is 320, but the model's embedding has 320 rows"),
        ('{"bos_token_id": "one"}', "bos_token_id is 'one'"),
        ('{"eos_token_id": [1, [2]]}', "eos_token_id is"),
        ('{"eos_token_id": NaN}', "not readable as JSON"),
        ("[]", "Expected `object`"),
    ],
)
def test_ids_that_cannot_be_are_refused(folder: Path, settings: str, message: str) -> None:
    (folder / "generation_config.json").write_text(settings)
    with pytest.raises(TokenizerError, match=message):
        generation_ids(folder, read_config(folder))


def test_a_pad_token_without_a_row_gives_way_to_one_that_has_one(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"pad_token_id": 320}')
    assert generation_ids(folder, read_config(folder)).pad == 0


def test_the_model_type_of_the_files_is_not_a_fact_of_the_architecture(
    tmp_path: Path, checkpoint_folder: Callable[[str], Path]
) -> None:
    folder = checkpoint_folder("gqa")
    joined = open_located(Located(folder, "joined"))
    split = open_located(Located(split_copy(folder, tmp_path / "split"), "split"))
    assert facts.facts(joined)[facts.ARCHITECTURE] == facts.facts(split)[facts.ARCHITECTURE]
