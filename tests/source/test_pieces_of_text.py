import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3quant.source.locate import bundled_folder
from phi3quant.source.pieces_of_text import Spans, encode_in_pieces
from phi3quant.source.tokenizer import Tokenizer, load_tokenizer
from tests.models import PROSE, make_tokenizer

KINDS = ("byte-level", "phi3-tiny", "sentencepiece")
UNUSUAL = (
    "naïve café 北京 東京\u200b 🙂🙂🏽 <|end|>\n<|user|>  x\t\t\n\n\n"
    + " " * 40
    + "</s> y"
    + "a" * 70
)


@cache
def tokenizer(kind: str) -> Tokenizer:
    if kind == "phi3-tiny":
        return load_tokenizer(bundled_folder())
    folder = Path(mkdtemp())
    if kind == "byte-level":
        make_tokenizer(folder)
    else:
        for name in ("tokenizer.model", "tokenizer_config.json", "added_tokens.json"):
            shutil.copyfile(bundled_folder() / name, folder / name)
    loaded = load_tokenizer(folder)
    shutil.rmtree(folder)
    return loaded


@pytest.mark.parametrize("kind", KINDS)
@given(
    parts=st.lists(
        st.sampled_from(
            [*PROSE.split("\n\n")[:12], UNUSUAL, "\n\n", " ", "x" * 300, " " * 300, "<|end|>\n"]
        ),
        min_size=1,
        max_size=40,
    ),
    characters=st.integers(250, 900),
    limit=st.none() | st.integers(0, 900),
)
def test_pieces_give_the_ids_of_the_whole_text(
    kind: str, parts: list[str], characters: int, limit: int | None
) -> None:
    text, encoder = "".join(parts), tokenizer(kind).encoder
    ids = encode_in_pieces(encoder.spans, text, limit, characters=characters, overlap=250)
    assert ids.tolist() == encoder.encode(text)[:limit]


def counted(spans: Callable[[str], Spans]) -> tuple[Callable[[str], Spans], list[int]]:
    lengths: list[int] = []

    def counting(text: str) -> Spans:
        lengths.append(len(text))
        return spans(text)

    return counting, lengths


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_have_the_requested_length_and_encoding_stops_at_the_limit(kind: str) -> None:
    spans, lengths = counted(tokenizer(kind).encoder.spans)
    ids = encode_in_pieces(spans, PROSE * 20, 1000, characters=1000, overlap=500)
    assert len(ids) == 1000
    assert max(lengths) == 1500
    assert sum(lengths) < 9000


def test_text_whose_pieces_never_agree_is_encoded_as_a_whole() -> None:
    # Tokens of three characters, counted from the beginning: pieces of 100 shift them.
    def spans(text: str) -> Spans:
        begins = np.arange(0, len(text), 3, dtype=np.int32)
        ends = np.minimum(begins + 3, len(text)).astype(np.int32)
        return Spans(begins * 0, np.stack([begins, ends], axis=1))

    counting, lengths = counted(spans)
    text = "a" * 1000
    assert len(encode_in_pieces(counting, text, characters=100, overlap=200)) == 334
    # 300 characters are a multiple of three.
    assert max(lengths) == 500


def test_every_function_encodes_a_long_text_alike() -> None:
    byte_level = tokenizer("byte-level")
    text = (PROSE + UNUSUAL) * 160
    assert len(text) > 1 << 19
    whole = byte_level.encoder.encode(text)
    assert byte_level.encode(text) == whole
    assert byte_level.encode_long(text).tolist() == whole
    assert byte_level.encode_long(text, 5).tolist() == whole[:5]
    assert byte_level.encode_long("").tolist() == []
