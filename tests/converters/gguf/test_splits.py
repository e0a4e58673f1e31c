"""Byte-level vocabularies by the way in which they split text; tests/real asks llama.cpp itself."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from converters.gguf.splits import CL100K, GPT2, O200K, SPLITS, split_name
from converters.gguf.tokenizer import build_fast, build_tokenizer
from converters.gguf.tokenizer_agreement import PLAIN, agreeing
from converters.gguf.vocabulary import GgufVocabulary, read_vocabulary
from phi3quant.errors import TokenizerError
from phi3quant.source.tokenizer import load_tokenizer

SIZE, ROWS = 700, 704
MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)


def train(folder: Path, pattern: str, *, strips: bool = False, **model: Any) -> Path:
    """Write a vocabulary of Phi-4's kind, trained on the trial texts so that it has their words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(PLAIN, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(mark, special=True, lstrip=strips, rstrip=strips) for mark in MARKS]
    )
    described = json.loads(tokenizer.to_str())
    described["model"].update(model)
    (folder / "tokenizer.json").write_text(json.dumps(described))
    settings = {
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "tokenizer_class": "GPT2Tokenizer",
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def agreed(folder: Path) -> GgufVocabulary:
    return agreeing(read_vocabulary(folder, ROWS), load_tokenizer(folder), "here")


NAMES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gpt-2": (GPT2, {}),
    "dbrx": (CL100K, {}),
    "llama-bpe": (CL100K, {"ignore_merges": True}),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_expression_gets_the_name_of_llama_cpp(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pattern, model = NAMES[name]
    assert agreed(train(tmp_path, pattern, **model)).pre == name
    assert not caplog.records


def test_phi_4_ends_its_turns_and_adds_nothing(tmp_path: Path) -> None:
    vocabulary = agreed(train(tmp_path, CL100K))
    text, end = (vocabulary.tokens.index(mark) for mark in ("<|endoftext|>", "<|im_end|>"))
    assert vocabulary.special == {"bos": text, "eos": end, "unk": text, "pad": text, "eot": end}
    assert vocabulary.adds == {"bos": False, "eos": False}


def test_spaces_around_marks_are_noted_and_never_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        vocabulary = agreed(train(tmp_path, CL100K, strips=True))
    (record,) = caplog.records
    assert all(mark in record.getMessage() for mark in MARKS)
    # llama.cpp would refuse a file of that name without Phi-3's own tokens.
    assert vocabulary.model_name("Phi-3 with the vocabulary of Phi-4").startswith("phi with")


@pytest.mark.parametrize("name", ["dbrx", "smaug-bpe", "llama-bpe", "llama3"])
def test_files_of_other_tools_are_read_alike(name: str, tmp_path: Path) -> None:
    fields = agreed(train(tmp_path, CL100K)).fields()
    tokenizer = build_tokenizer({**fields, "tokenizer.ggml.pre": name}, "x.gguf")
    for text in PLAIN:
        assert tokenizer.encode(text) == load_tokenizer(tmp_path).encode(text)


@pytest.mark.parametrize("name", SPLITS)
def test_what_was_read_from_a_file_is_written_with_the_same_name(name: str, tmp_path: Path) -> None:
    fields = {**agreed(train(tmp_path, CL100K)).fields(), "tokenizer.ggml.pre": name}
    for as_intended in (False, True):
        read = build_fast(fields, "x.gguf", as_intended=as_intended)
        read.save(str(tmp_path / "tokenizer.json"))
        assert read_vocabulary(tmp_path, ROWS).pre == name


def test_whole_words_need_no_merges_where_llama_cpp_ignores_them(tmp_path: Path) -> None:
    fields = agreed(train(tmp_path, CL100K)).fields()
    fields["tokenizer.ggml.merges"] = []
    word = next(
        token for token in fields["tokenizer.ggml.tokens"] if token.isalpha() and len(token) > 4
    )
    lengths = {
        name: len(build_tokenizer({**fields, "tokenizer.ggml.pre": name}, "x").encode(word))
        for name in ("dbrx", "llama-bpe")
    }
    assert lengths == {"dbrx": len(word.encode()), "llama-bpe": 1}


def test_words_that_llama_cpp_splits_otherwise_are_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        vocabulary = agreed(train(tmp_path, O200K))
    assert vocabulary.pre == "gpt-4o"
    (record,) = caplog.records
    assert "combining marks, as in Hindi" in record.getMessage()
    rebuilt = build_tokenizer(vocabulary.fields(), "x.gguf")
    source = load_tokenizer(tmp_path)
    assert rebuilt.encode("हिन्दी") != source.encode("हिन्दी")
    assert rebuilt.encode("It's 1234567 o'clock") == source.encode("It's 1234567 o'clock")


def test_another_difference_is_refused_next_to_known_ones(tmp_path: Path) -> None:
    train(tmp_path, O200K)
    file = tmp_path / "tokenizer.json"
    described = json.loads(file.read_text())
    file.write_text(json.dumps({**described, "normalizer": {"type": "Lowercase"}}))
    with pytest.raises(TokenizerError, match="differently from this tokenizer"):
        agreed(tmp_path)


def test_an_unknown_expression_or_name_is_refused(tmp_path: Path) -> None:
    fields = agreed(train(tmp_path, CL100K)).fields()
    with pytest.raises(TokenizerError, match=r"tokenizer\.ggml\.pre is 'tekken'"):
        build_tokenizer({**fields, "tokenizer.ggml.pre": "tekken"}, "x.gguf")
    with pytest.raises(TokenizerError, match="has no equivalent in llama"):
        read_vocabulary(train(tmp_path, CL100K.replace("{1,3}", "{1,4}")), ROWS)


@pytest.mark.parametrize("parts", [[], [{"type": "ByteLevel", "use_regex": False}]])
def test_a_tokenizer_that_splits_nowhere_is_refused(parts: list[Any], tmp_path: Path) -> None:
    described = {"pre_tokenizer": {"type": "Sequence", "pretokenizers": parts}}
    with pytest.raises(TokenizerError, match="has no equivalent in llama"):
        split_name(tmp_path / "tokenizer.json", described)


def test_every_name_has_one_meaning() -> None:
    names = [name for split in SPLITS for name in (split, *SPLITS[split].names)]
    assert len(names) == len(set(names))
