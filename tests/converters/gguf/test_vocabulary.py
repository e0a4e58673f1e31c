import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

from converters.gguf.tokenizer import build_tokenizer
from converters.gguf.tokenizer_agreement import agreeing
from converters.gguf.vocabulary import GgufVocabulary, read_vocabulary
from phi3quant.errors import TokenizerError
from phi3quant.source.locate import bundled_folder
from phi3quant.source.tokenizer import FILES, load_tokenizer
from tests.models import VOCABULARY, make_tokenizer

ROWS = 2048


def copy(folder: Path, **changes: Any) -> Path:
    """phi3-tiny's tokenizer with some sections of tokenizer.json changed."""
    for name in FILES:
        if (bundled_folder() / name).is_file():
            (folder / name).write_bytes((bundled_folder() / name).read_bytes())
    file = folder / "tokenizer.json"
    described = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**described, **changes}), encoding="utf-8")
    return folder


def settings(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / "tokenizer_config.json"
    described = json.loads(file.read_text(encoding="utf-8"))
    change(described)
    file.write_text(json.dumps(described), encoding="utf-8")


def without_keys(described: dict[str, Any]) -> None:
    del described["add_bos_token"], described["add_eos_token"]


def agreed(folder: Path, rows: int = ROWS) -> GgufVocabulary:
    return agreeing(read_vocabulary(folder, rows), load_tokenizer(folder), str(folder))


BOS = {"SpecialToken": {"id": "<s>", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}


def template(*single: dict[str, Any]) -> dict[str, Any]:
    special = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    return {
        "type": "TemplateProcessing",
        "single": list(single),
        "pair": [TEXT, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": special,
    }


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
PROCESSORS = {
    "none": (None, False, False),
    "nothing around": (template(TEXT), False, False),
    "before": (template(BOS, TEXT), True, False),
    "after": (template(TEXT, BOS), False, True),
    "bytes": (BYTES, False, False),
    "sequence": (
        {"type": "Sequence", "processors": [BYTES, template(BOS, TEXT)]},
        True,
        False,
    ),
    "roberta": (
        {
            "type": "RobertaProcessing",
            "sep": ["</s>", 2],
            "cls": ["<s>", 1],
            "trim_offsets": True,
            "add_prefix_space": True,
        },
        True,
        True,
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_tokens_around_a_text_are_stated_as_the_post_processor_has_them(
    tmp_path: Path, name: str
) -> None:
    processor, before, after = PROCESSORS[name]
    settings(copy(tmp_path, post_processor=processor), without_keys)
    assert read_vocabulary(tmp_path, ROWS).adds == {"bos": before, "eos": after}


def test_settings_of_the_tokenizer_come_first(tmp_path: Path) -> None:
    copy(tmp_path, post_processor=template(BOS, TEXT))
    assert read_vocabulary(tmp_path, ROWS).adds == {"bos": False, "eos": False}


def test_the_bundled_vocabulary_agrees_without_a_note(caplog: pytest.LogCaptureFixture) -> None:
    vocabulary = read_vocabulary(bundled_folder(), ROWS)
    assert agreed(bundled_folder()) == vocabulary
    assert not caplog.records


def test_a_byte_level_vocabulary_agrees_without_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_tokenizer(tmp_path)
    agreed(tmp_path, VOCABULARY)
    assert not caplog.records


def added(folder: Path, **changes: Any) -> Path:
    """phi3-tiny's tokenizer with a further token."""
    tokens = json.loads((bundled_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    last = {**tokens["added_tokens"][-1], "id": 2011, "content": "<tool>", "rstrip": True}
    return copy(folder, added_tokens=[*tokens["added_tokens"], {**last, **changes}])


@pytest.mark.parametrize(
    "changes",
    [{"normalized": True, "special": False}, {"rstrip": False}, {"lstrip": True}],
    ids=str,
)
def test_added_tokens_that_llama_cpp_reads_in_another_way_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    with caplog.at_level(logging.WARNING):
        agreed(added(tmp_path, **changes))
    (record,) = caplog.records
    assert record.getMessage().endswith("tokenizer: <tool>")


def test_an_added_token_that_llama_cpp_reads_alike_is_not_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agreed(added(tmp_path))
    assert not caplog.records


def test_spaces_are_kept_where_the_models_chats_need_them(tmp_path: Path) -> None:
    # As in fine-tunes that use ChatML: their own tokens keep the newline, Phi-3's don't.
    added(tmp_path, rstrip=False)
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}<tool>{{ m.role }}\n{{ m.content }}<tool>\n{% endfor %}"
    )
    vocabulary = agreed(tmp_path)
    assert not vocabulary.strips_right
    assert not read_name_says_phi3(vocabulary)
    assert read_vocabulary(tmp_path, ROWS).strips_right


def read_name_says_phi3(vocabulary: GgufVocabulary) -> bool:
    return "phi3" in vocabulary.model_name("phi3-chat")


REFUSED: dict[str, dict[str, Any]] = {
    "lower case": {"normalizer": {"type": "Lowercase"}},
    "compatibility forms": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFKC"},
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        }
    },
    "a prefix at the beginning alone": {
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "first",
            "split": False,
        },
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_tokenizer_without_equal_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TokenizerError, match="differently from this tokenizer"):
        agreed(copy(tmp_path, **REFUSED[name]))


@pytest.mark.parametrize("scheme", ["always", "never"])
def test_metaspace_is_written_as_the_prefix_it_means(tmp_path: Path, scheme: str) -> None:
    metaspace = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": scheme,
        "split": False,
    }
    copy(tmp_path, normalizer=None, pre_tokenizer=metaspace)
    vocabulary = read_vocabulary(tmp_path, ROWS)
    assert vocabulary.space_prefix is (None if scheme == "always" else False)
    rebuilt = build_tokenizer(vocabulary.fields(), "here")
    expected = load_tokenizer(tmp_path).encode("Nora owned a small red key.")
    assert rebuilt.encode("Nora owned a small red key.") == expected


def test_a_token_without_a_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"token 2048 \('<tool>'\) has no row .* has\s2048"):
        read_vocabulary(added(tmp_path, id=2048), ROWS)


BROKEN: dict[str, tuple[str, Any, str]] = {
    "model": ("model", ["llama"], "of kind"),
    "another model": ("model", "bert", "of kind 'bert'"),
    "no tokens": ("tokens", None, "no complete tokenizer"),
    "tokens": ("tokens", "abc", "no complete tokenizer"),
    "a number": ("tokens", [*"abc", 5], "tokens holds 5"),
    "types": ("token_type", ["a"], "token_type holds 'a'"),
    "fewer types": ("token_type", [1], "but 1 token types"),
    "fewer scores": ("scores", [1.0], "but 1 scores"),
    "scores": ("scores", "abc", "scores is 'abc'"),
    "a score": ("scores", [[1.0]], "scores holds"),
    "unknown": ("unknown_token_id", 1 << 31, "unknown_token_id is 2147483648"),
    "unknown text": ("unknown_token_id", "a", "unknown_token_id is 'a'"),
    "merges": ("merges", [5], "merges holds 5"),
    "pre": ("pre", ["gpt-2"], "tokenizer.ggml.pre is"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_section_is_refused(tmp_path: Path, name: str) -> None:
    key, value, message = BROKEN[name]
    make_tokenizer(tmp_path)
    llama = key in {"scores", "unknown_token_id"}
    folder, rows = (bundled_folder(), ROWS) if llama else (tmp_path, VOCABULARY)
    fields = {**read_vocabulary(folder, rows).fields(), f"tokenizer.ggml.{key}": value}
    with pytest.raises(TokenizerError, match=message):
        build_tokenizer(fields, "x.gguf")


def test_a_token_of_a_megabyte_is_refused() -> None:
    fields = read_vocabulary(bundled_folder(), ROWS).fields()
    fields["tokenizer.ggml.tokens"][300] = "a" * 1_000_000
    with pytest.raises(TokenizerError, match="token 300 has 1,000,000 characters"):
        build_tokenizer(fields, "x.gguf")


def test_merges_without_their_pieces_are_refused(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    fields = read_vocabulary(tmp_path, VOCABULARY).fields()
    for merge in ("nospace", "x1 y2", ""):
        fields["tokenizer.ggml.merges"] = [merge]
        with pytest.raises(TokenizerError, match="broken tokenizer"):
            build_tokenizer(fields, "x.gguf")


def test_fillers_and_empty_tokens_are_no_marks() -> None:
    vocabulary = read_vocabulary(bundled_folder(), ROWS)
    fields = vocabulary.fields()
    fields["tokenizer.ggml.tokens"][2047] = ""
    fields["tokenizer.ggml.token_type"][2047] = int(TokenType.CONTROL)
    assert build_tokenizer(fields, "here").encode("a b") == load_tokenizer(bundled_folder()).encode(
        "a b"
    )
