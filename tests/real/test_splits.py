"""Byte-level BPE in llama.cpp: splitting of all of Unicode, and the vocabularies of Phi-4."""

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from gguf import GGUFWriter, TokenType
from llama_cpp import Llama
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from converters.gguf.metadata import add_vocabulary
from converters.gguf.splits import SPLITS
from converters.gguf.tokenizer import build_tokenizer
from converters.gguf.tokenizer_agreement import PLAIN, agreeing
from converters.gguf.vocabulary import GgufVocabulary, read_vocabulary
from phi3quant.disk.output import write_json
from phi3quant.source.tokenizer import Tokenizer, load_tokenizer

AROUND = ("a{}b", "{}{}A", "1{}2", " {} ", "'{}x", ".{}.", "A{}A", "{}\n", "{}'s", "a{}'LL")
"""Texts that differ in tokens if a character counts as a letter, digit or space, or not."""

ROWS = {"phi-4": 100352, "phi-4-mini": 200064}
"""Rows of each model's embedding."""

LINES = 32
# Ranges of thousands of letters that are all alike, and of private use.
ALIKE = (range(0x3401, 0x9FF0), range(0xAC01, 0xD7A0), range(0xE000, 0xF900))


def in_llama(vocabulary: GgufVocabulary, file: Path) -> Llama:
    """llama.cpp with a file that has nothing but a vocabulary."""
    writer = GGUFWriter(str(file), "phi3")
    writer.add_name("vocabulary")
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(64)
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_sliding_window(0)
    add_vocabulary(writer, vocabulary)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return Llama(str(file), vocab_only=True, verbose=False)


def pairs_of_bytes(pre: str) -> GgufVocabulary:
    """Vocabulary of all pairs of bytes, so that tokens show where a text isn't split.

    Pairs with one byte of an ASCII character are merged first: a character sticks to its
    neighbours, unless there is a boundary.
    """
    letters = bytes_to_unicode()
    pairs = sorted(
        ((left, right) for left in range(256) for right in range(256)),
        key=lambda pair: (pair[0] >= 128 or pair[1] < 128, pair[1] >= 128, pair),
    )
    tokens = [letters[byte] for byte in range(256)]
    tokens += [letters[left] + letters[right] for left, right in pairs]
    return GgufVocabulary(
        model="gpt2",
        pre=pre,
        tokens=tokens,
        types=[TokenType.NORMAL] * len(tokens),
        scores=None,
        merges=[f"{letters[left]} {letters[right]}" for left, right in pairs],
        special={},
        adds={"bos": False, "eos": False},
        strips_right=False,
        space_prefix=None,
        chat_template=None,
    )


def characters() -> Iterator[str]:
    for code in range(0x20000):
        character = chr(code)
        if unicodedata.category(character) in {"Cn", "Cs"} or any(code in part for part in ALIKE):
            continue
        yield character


def differing(llama: Llama, tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Texts that both encode differently; blocks of them are encoded together to save time."""
    whole = "\n".join(texts)
    if llama.tokenize(whole.encode(), add_bos=False, special=True) == tokenizer.encode(whole):
        return []
    if len(texts) == 1:
        return list(texts)
    half = len(texts) // 2
    first, second = texts[:half], texts[half:]
    return [*differing(llama, tokenizer, first), *differing(llama, tokenizer, second)]


@pytest.mark.parametrize(
    "pre", [name for split in SPLITS for name in (split, *SPLITS[split].names)]
)
def test_text_is_split_as_llama_cpp_splits_it(pre: str, tmp_path: Path) -> None:
    vocabulary = pairs_of_bytes(pre)
    llama = in_llama(vocabulary, tmp_path / "pairs.gguf")
    tokenizer = build_tokenizer(vocabulary.fields(), pre)
    # All take ten seconds each, and std::regex, which llama.cpp uses for gpt-4o, takes a minute.
    every = list(characters())[:: {"dbrx": 1, "gpt-4o": 16}.get(pre, 8)]
    for pattern in AROUND:
        texts = [pattern.replace("{}", character) for character in every]
        for start in range(0, len(texts), LINES):
            assert not differing(llama, tokenizer, texts[start : start + LINES])


@pytest.mark.parametrize("name", ROWS)
def test_a_real_vocabulary_gives_the_same_ids(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source: Path = request.getfixturevalue(name.replace("-", "_"))
    folder = tmp_path / name
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    write_json(folder / "config.json", {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]})
    tokenizer, reference = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    vocabulary = agreeing(read_vocabulary(folder, ROWS[name], tokenizer), tokenizer, name)
    llama = in_llama(vocabulary, tmp_path / "vocabulary.gguf")
    rebuilt = build_tokenizer(vocabulary.fields(), name)
    chat = tokenizer.render_chat([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
    for text in (*PLAIN, chat):
        ids = reference(text, add_special_tokens=False).input_ids
        assert tokenizer.encode(text) == ids
        found = llama.tokenize(text.encode(), add_bos=True, special=True)
        assert rebuilt.encode(text) == found
        # llama.cpp's expression for o200k splits words at combining marks.
        assert found == ids or (name == "phi-4-mini" and "हिन्दी" in text)
