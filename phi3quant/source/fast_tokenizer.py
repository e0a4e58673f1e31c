"""Encoders from tokenizer.json, with the semantics of transformers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tokenizers import Tokenizer as FastTokenizer

from phi3quant.disk.untrusted_json import read_json
from phi3quant.errors import Phi3QuantError, TokenizerError
from phi3quant.source.hushed import hushed
from phi3quant.source.pieces_of_text import Spans

_MAX_GROWTH = 64
"""Limit of characters that a tokenizer's replacements produce from one; Llama's produce two."""


class _Described(msgspec.Struct):
    """Parts of tokenizer.json that are checked before the library reads the file."""

    normalizer: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None


@dataclass(frozen=True)
class FastEncoder:
    """Encoder that adds no tokens, truncates nothing and pads nothing; implements Encoder."""

    inner: FastTokenizer

    def spans(self, text: str) -> Spans:
        """See Encoder."""
        with library_errors("a text can't be encoded"):
            encoding = self.inner.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int32)
        return Spans(ids, np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2))

    def encode(self, text: str) -> list[int]:
        """See Encoder."""
        with library_errors("a text can't be encoded"):
            return list(self.inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """See Encoder."""
        with library_errors("token ids can't be decoded"):
            return str(self.inner.decode(list(ids), skip_special_tokens=False))

    def vocabulary(self) -> Mapping[str, int]:
        """See Encoder."""
        return self.inner.get_vocab(with_added_tokens=True)


def read_fast(file: Path) -> FastTokenizer:
    """Read tokenizer.json.

    Raises:
        TokenizerError: the file can't be read, or its replacements could expand a text more than
            ``_MAX_GROWTH``-fold.
    """
    described: _Described = read_json(file, _Described, raises=TokenizerError)
    for name, part in (("normalizer", described.normalizer), ("decoder", described.decoder)):
        growth = _growth(part)
        if growth > _MAX_GROWTH:
            raise TokenizerError(
                f"{file}: its {name} expands one character to {growth:.0f}; "
                f"at most {_MAX_GROWTH} are allowed"
            )
    with library_errors(f"{file} can't be read"):
        return FastTokenizer.from_file(str(file))


def whole_texts(fast: FastTokenizer) -> FastEncoder:
    """Encoder of a tokenizer with truncation, padding and dropout switched off.

    tokenizer.json may contain these settings of a training run. They aren't part of the
    vocabulary, and transformers switches them off too.
    """
    fast.no_truncation()
    fast.no_padding()
    if getattr(fast.model, "dropout", None) is not None:
        fast.model.dropout = None
    return FastEncoder(fast)


def adds_first(fast: FastTokenizer, token: str | None) -> bool:
    """Whether a tokenizer's post-processor puts a token before every text."""
    number = None if token is None else fast.token_to_id(token)
    if number is None:
        return False
    with library_errors("an empty text can't be encoded"):
        return bool(fast.encode("").ids[:1] == [number])


def _growth(part: Any) -> float:
    """Upper bound of the number of characters that a step's replacements produce from one."""
    if not isinstance(part, Mapping):
        return 1.0
    steps = part.get("normalizers", part.get("decoders"))
    if isinstance(steps, list):
        total = 1.0
        for step in steps:
            total *= _growth(step)
        return total
    if part.get("type") == "Prepend":
        return 1.0 + len(str(part.get("prepend", "")))
    if part.get("type") != "Replace":
        return 1.0
    pattern, content = part.get("pattern"), str(part.get("content", ""))
    fixed = pattern.get("String") if isinstance(pattern, Mapping) else None
    if fixed:
        return max(1.0, len(content) / len(fixed))
    # A regular expression may match a single character or the empty string before each.
    return 1.0 + len(content)


@contextmanager
def library_errors(problem: str) -> Iterator[None]:
    """Convert exceptions of the tokenizers library into TokenizerError.

    Panics of its Rust code are included (for example for a regular expression that takes too
    long); they derive from BaseException.

    Args:
        problem: beginning of the message.
    """
    try:
        with hushed():
            yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, Phi3QuantError):
        raise
    except BaseException as error:  # noqa: BLE001 - see above
        reason = str(error)
        if isinstance(error, TypeError) and "TextInputSequence" in reason:
            reason = "it holds half of a surrogate pair"
        raise TokenizerError(f"{problem}: {reason}") from None
