"""Encoder from tokenizer.model; added tokens are split off first, as in slow tokenizers."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from phi3quant.disk.untrusted_json import read_json
from phi3quant.errors import MissingExtraError, TokenizerError
from phi3quant.source.pieces_of_text import Spans

_Id = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class _Added(msgspec.Struct):
    """An entry of added_tokens_decoder in tokenizer_config.json."""

    content: str
    lstrip: bool = False
    rstrip: bool = False


class _Settings(msgspec.Struct):
    added_tokens_decoder: dict[_Id, _Added] = {}


@dataclass(frozen=True)
class PieceEncoder:
    """Encoder of a SentencePiece model; implements Encoder.

    Attributes:
        inner: a SentencePieceProcessor, which has no type annotations.
        added: ids of the added tokens.
        strips_left, strips_right: added tokens that absorb the white space before or after them.
    """

    inner: Any
    added: Mapping[str, int]
    strips_left: frozenset[str]
    strips_right: frozenset[str]

    def vocabulary(self) -> dict[str, int]:
        """Id of every token, added ones included."""
        pieces = {self.inner.id_to_piece(n): n for n in range(self.inner.get_piece_size())}
        return {**pieces, **self.added}

    def spans(self, text: str) -> Spans:
        """See Encoder."""
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        for start, part in self._parts(text):
            if part in self.added:
                ids.append(self.added[part])
                places.append((start, start + len(part)))
                continue
            pieces = _sentencepiece(partial(_with_places, self.inner, part))
            characters = _characters(part)
            ids.extend(piece.id for piece in pieces)
            places.extend(
                (start + int(characters[piece.begin]), start + int(characters[piece.end]))
                for piece in pieces
            )
        return Spans(np.array(ids, dtype=np.int32), np.array(places, dtype=np.int32).reshape(-1, 2))

    def encode(self, text: str) -> list[int]:
        """See Encoder."""
        ids: list[int] = []
        for _, part in self._parts(text):
            if part in self.added:
                ids.append(self.added[part])
            else:
                ids.extend(_sentencepiece(partial(self.inner.encode, part)))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See Encoder."""
        names = {number: name for name, number in self.added.items()}
        known = self.inner.get_piece_size()
        text = ""
        run: list[int] = []
        for number in ids:
            if number in names or number >= known:
                text += (self.inner.decode(run) if run else "") + names.get(number, "")
                run = []
            else:
                run.append(number)
        return text + (self.inner.decode(run) if run else "")

    def _parts(self, text: str) -> Iterator[tuple[int, str]]:
        """Added tokens and the text between them, each with the index of its first character."""
        if not self.added:
            yield 0, text
            return
        longest_first = sorted(self.added, key=len, reverse=True)
        parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
        start = 0
        for number, part in enumerate(parts):
            kept, at = part, start
            if part not in self.added:
                if number > 0 and parts[number - 1] in self.strips_right:
                    kept = kept.lstrip()
                    at += len(part) - len(kept)
                if number + 1 < len(parts) and parts[number + 1] in self.strips_left:
                    kept = kept.rstrip()
            if kept:
                yield at, kept
            start += len(part)


def read_pieces(file: Path) -> PieceEncoder:
    """Read tokenizer.model and the added tokens from the files next to it.

    Raises:
        TokenizerError: a file can't be read.
        MissingExtraError: sentencepiece isn't installed.
    """
    try:
        import sentencepiece  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError("tokenizer.model without tokenizer.json", "sentencepiece") from None
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.load(str(file))
    except (OSError, RuntimeError) as error:
        raise TokenizerError(f"{file} can't be read: {error}") from None
    added: dict[str, int] = {}
    added_file = file.parent / "added_tokens.json"
    if added_file.is_file():
        added |= read_json(added_file, dict[str, _Id], raises=TokenizerError)
    strips_left, strips_right = set(), set()
    for number, token in _added_tokens(file.parent / "tokenizer_config.json").items():
        added[token.content] = number
        if token.lstrip:
            strips_left.add(token.content)
        if token.rstrip:
            strips_right.add(token.content)
    added.pop("", None)
    return PieceEncoder(processor, added, frozenset(strips_left), frozenset(strips_right))


def _added_tokens(file: Path) -> dict[int, _Added]:
    if not file.is_file():
        return {}
    settings: _Settings = read_json(file, _Settings, raises=TokenizerError)
    return settings.added_tokens_decoder


def _with_places(processor: Any, text: str) -> Any:
    try:
        return processor.encode(text, return_type="proto").pieces
    except (TypeError, ValueError):  # before 0.2.1
        return processor.encode(text, out_type="immutable_proto").pieces


def _characters(text: str) -> np.ndarray:
    """Index of the character at each byte of the UTF-8 form, int64 [bytes + 1] with the end."""
    data = np.frombuffer(text.encode(), dtype=np.uint8)
    begins = (data & 0xC0) != 0x80
    return np.append(np.cumsum(begins) - 1, len(text))


def _sentencepiece(step: Callable[[], Any]) -> Any:
    try:
        return step()
    except (RuntimeError, UnicodeError) as error:
        raise TokenizerError(f"a text can't be encoded: {error}") from None
