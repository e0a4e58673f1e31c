"""Splitting of text before byte-level BPE, in tokenizer.json and in llama.cpp.

llama.cpp has a name for each way of splitting. Names and expressions are from its files
src/llama-vocab.cpp and src/unicode.cpp; tests/real compares them with llama.cpp for all of Unicode.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, pre_tokenizers

from phi3quant.errors import TokenizerError

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Expressions of GPT-2, of Phi-4 (and Llama 3), and of Phi-4-mini in tokenizer.json."""

_ASCII_ENDINGS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"


@dataclass(frozen=True)
class Split:
    """A way of splitting text.

    Attributes:
        steps: expressions of llama.cpp; each splits the parts that the previous one left.
        names: its other names in llama.cpp, which are read but not written.
        whole_words: whether words of the vocabulary become tokens without merging.
        intended: expression of tokenizer.json that ``steps`` only approximate; None if they are
            equivalent.
        limit: texts that both split differently.
    """

    steps: Sequence[str]
    names: Sequence[str] = ()
    whole_words: bool = False
    intended: str | None = None
    limit: str = ""


# Ignoring case adds a single letter to those of _ASCII_ENDINGS, the long s (U+017F).
_LLAMA_CL100K = CL100K.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", _ASCII_ENDINGS)
# Letters outside ASCII count as both upper and lower case, and marks not as letters.
_UPPER, _LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"
_LLAMA_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ASCII_ENDINGS}?|"
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ASCII_ENDINGS}?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SPLITS: Mapping[str, Split] = {
    "gpt-2": Split((GPT2,), ("phi-2",)),
    "smollm": Split((r"\p{N}", GPT2)),
    "dbrx": Split((_LLAMA_CL100K,), ("smaug-bpe",)),
    "llama-bpe": Split((_LLAMA_CL100K,), ("llama3", "llama-v3"), whole_words=True),
    "gpt-4o": Split(
        (_LLAMA_O200K,),
        intended=O200K,
        limit="words with combining marks, as in Hindi, or with capitals other than A to Z inside",
    ),
    "default": Split((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
}
"""Ways of splitting by their names in llama.cpp; ``names`` has further ones."""

# Names by the expressions of tokenizer.json, and of what is built from a GGUF file.
_NAMES = {
    ((CL100K,), False): "dbrx",
    ((CL100K,), True): "llama-bpe",
    ((O200K,), False): "gpt-4o",
    **{(tuple(split.steps), split.whole_words): name for name, split in SPLITS.items()},
}

_BY_NAME = {alias: split for name, split in SPLITS.items() for alias in (name, *split.names)}


def split_named(name: Any, where: str) -> Split:
    """Way of splitting by its name in a GGUF file.

    Args:
        name: value of tokenizer.ggml.pre.
        where: path of the file, for messages.

    Raises:
        TokenizerError: the name is unknown.
    """
    split = _BY_NAME.get(name) if isinstance(name, str) else None
    if split is None:
        text = repr(name)
        raise TokenizerError(
            f"{where} has an unsupported tokenizer: tokenizer.ggml.pre is "
            f"{text if len(text) <= 60 else f'{text[:57]}...'}"
        )
    return split


def byte_level(steps: Sequence[str]) -> pre_tokenizers.PreTokenizer:
    """Pre-tokenizer that splits by expressions, one after the other, and then turns to bytes."""
    parts = [pre_tokenizers.Split(Regex(step), "isolated") for step in steps]
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*parts, bytes_])


def split_name(file: Path, described: Mapping[str, Any]) -> str:
    """Name that llama.cpp uses for tokenizer.json's pre_tokenizer.

    Args:
        file: path of tokenizer.json, for messages.
        described: its contents.

    Raises:
        TokenizerError: llama.cpp has no equivalent.
    """
    section = described.get("pre_tokenizer") or {}
    parts = section.get("pretokenizers", [section])
    kinds = [part.get("type") for part in parts]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        return "smollm"
    if kinds[1:] and kinds == [*["Split"] * (len(kinds) - 1), "ByteLevel"]:
        steps = tuple(str(part.get("pattern", {}).get("Regex")) for part in parts[:-1])
        whole_words = bool((described.get("model") or {}).get("ignore_merges"))
        # Only one expression has a name for each way of treating whole words.
        name = _NAMES.get((steps, whole_words)) or _NAMES.get((steps, not whole_words))
        if name is not None:
            return name
    raise TokenizerError(
        f"{file}: its pre_tokenizer ({', '.join(map(str, kinds))}) has no equivalent in llama.cpp; "
        "export another format than GGUF"
    )
