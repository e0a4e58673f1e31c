import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phi3quant.errors import TokenizerError
from phi3quant.generation.generate import generate
from phi3quant.source.locate import bundled_folder
from phi3quant.source.tokenizer import load_tokenizer, require_rows
from tests.models import make_tokenizer

TEXT = "The river rose over the lower field. " * 4


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    make_tokenizer(folder)
    file = folder / "tokenizer.json"
    described = json.loads(file.read_text())
    change(described)
    file.write_text(json.dumps(described))
    return folder


TRAINING: dict[str, dict[str, Any]] = {
    "truncation": {
        "truncation": {
            "direction": "Right",
            "max_length": 5,
            "strategy": "LongestFirst",
            "stride": 0,
        }
    },
    "padding": {
        "padding": {
            "strategy": {"Fixed": 300},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<unk>",
        }
    },
    "post-processor": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        }
    },
}


@pytest.mark.parametrize("setting", TRAINING)
def test_settings_of_a_training_run_are_ignored(tmp_path: Path, setting: str) -> None:
    make_tokenizer(tmp_path)
    expected = load_tokenizer(tmp_path)
    tokenizer = load_tokenizer(changed(tmp_path, lambda file: file.update(TRAINING[setting])))
    assert tokenizer.encode(TEXT) == expected.encode(TEXT)
    assert tokenizer.encode_long(TEXT).tolist() == expected.encode(TEXT)
    assert tokenizer.digest == expected.digest


def test_dropout_of_a_training_run_is_switched_off(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    expected = load_tokenizer(tmp_path).encode(TEXT)
    tokenizer = load_tokenizer(changed(tmp_path, lambda file: file["model"].update(dropout=0.9)))
    assert tokenizer.encode(TEXT) == expected


def replacement(content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": "a"}, "content": content}


@pytest.mark.parametrize("part", ["normalizer", "decoder"])
def test_replacements_that_multiply_a_text_are_refused(tmp_path: Path, part: str) -> None:
    key = {"normalizer": "normalizers", "decoder": "decoders"}[part]
    doubling = {part: {"type": "Sequence", key: [replacement("aa")] * 7}}
    with pytest.raises(TokenizerError, match=f"its {part} expands one character to 128"):
        load_tokenizer(changed(tmp_path, lambda file: file.update(doubling)))
    nested = {part: {"type": "Sequence", key: [{"type": "Sequence", key: [replacement("aa")]}] * 6}}
    load_tokenizer(changed(tmp_path, lambda file: file.update(nested)))


@pytest.mark.parametrize(
    "step",
    [
        {"type": "Replace", "pattern": {"Regex": "a"}, "content": "a" * 80},
        {"type": "Prepend", "prepend": "a" * 80},
    ],
)
def test_a_single_step_that_expands_a_text_is_refused(tmp_path: Path, step: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError, match="expands one character to 81"):
        load_tokenizer(changed(tmp_path, lambda file: file.update(normalizer=step)))


def test_a_pattern_that_takes_forever_is_an_error(tmp_path: Path) -> None:
    pattern = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    tokenizer = load_tokenizer(changed(tmp_path, lambda file: file.update(pre_tokenizer=pattern)))
    for encode in (tokenizer.encode, tokenizer.encode_long):
        with pytest.raises(TokenizerError, match="can't be encoded"):
            encode("a" * 40 + "b")


@pytest.mark.parametrize(
    "content", [b'{"normalizer": ' + b"[" * 100_000, b'{"normalizer": 5}', b"[]", b"\xff", b"{}"]
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def sentencepiece_folder(folder: Path) -> Path:
    """Copy phi3-tiny's tokenizer files without tokenizer.json."""
    for name in ("tokenizer.model", "tokenizer_config.json", "added_tokens.json"):
        shutil.copyfile(bundled_folder() / name, folder / name)
    return folder


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("added_tokens.json", {"<x>": "word"}),
        ("added_tokens.json", ["<x>"]),
        ("added_tokens.json", {"<x>": -1}),
        ("added_tokens.json", {"<x>": 2**70}),
        ("tokenizer_config.json", {"added_tokens_decoder": "text"}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": "text"}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"five": {"content": "x"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": {"content": 5}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"-5": {"content": "x"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {str(2**31): {"content": "x"}}}),
    ],
)
def test_malformed_added_tokens_are_refused(tmp_path: Path, file: str, content: Any) -> None:
    (sentencepiece_folder(tmp_path) / file).write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=file):
        load_tokenizer(tmp_path)


def test_added_tokens_that_are_not_special_keep_their_ids(tmp_path: Path) -> None:
    slow, fast = load_tokenizer(sentencepiece_folder(tmp_path)), load_tokenizer(bundled_folder())
    for text in ("a</s>b", "</s>\n x", "a <unk> b"):
        assert slow.encode(text) == fast.encode(text)
    assert 2 in slow.encode("a</s>b")


@pytest.mark.parametrize("kind", ["json", "model"])
def test_half_of_a_surrogate_pair_is_an_error(tmp_path: Path, kind: str) -> None:
    make_tokenizer(tmp_path) if kind == "json" else sentencepiece_folder(tmp_path)
    with pytest.raises(TokenizerError, match="can't be encoded"):
        load_tokenizer(tmp_path).encode("\ud800")


def test_the_message_names_a_token_without_a_row(checkpoint_folder: Callable[[str], Path]) -> None:
    tokenizer = load_tokenizer(checkpoint_folder("gqa"))
    require_rows(tokenizer, [], 5)
    require_rows(tokenizer, np.array([[1, 4]]), 5)
    with pytest.raises(TokenizerError, match=r"token 6 \('<\|end\|>'\).* has 5 rows"):
        require_rows(tokenizer, [6, 1], 5)


def test_a_prompt_with_a_token_without_a_row_is_refused(
    checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint_folder("gqa"), folder)
    file = folder / "tokenizer.json"
    described = json.loads(file.read_text())
    described["added_tokens"].append(
        {**described["added_tokens"][-1], "id": 320, "content": "<extra>"}
    )
    file.write_text(json.dumps(described))
    with pytest.raises(TokenizerError, match=r"token 320 \('<extra>'\)"):
        generate(folder, "a <extra>", max_new_tokens=1)
