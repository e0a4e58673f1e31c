"""Tokenizer of a GGUF file, built from its metadata with the tokenizers library."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as FastTokenizer

from converters.gguf.splits import SPLITS, byte_level, split_named
from converters.gguf.vocabulary import filler
from phi3quant.errors import TokenizerError
from phi3quant.source.fast_tokenizer import library_errors
from phi3quant.source.tokenizer import Tokenizer, from_fast

_SPACE = "▁"
_MARKS = (TokenType.CONTROL, TokenType.USER_DEFINED)
_MAX_SPLITS = 1 << 27


def build_tokenizer(
    fields: Mapping[str, Any], where: str, *, as_intended: bool = False
) -> Tokenizer:
    """Rebuild the tokenizer so that it encodes as llama.cpp does.

    Args:
        fields: metadata of the file.
        where: path of the file, for messages.
        as_intended: split text as the original tokenizer does where llama.cpp only approximates it.

    Raises:
        TokenizerError: as build_fast.
    """
    fast = build_fast(fields, where, as_intended=as_intended)
    template = fields.get("tokenizer.chat_template")
    tokens = fields["tokenizer.ggml.tokens"]
    named = {}
    for role in ("bos", "eos", "unk", "pad"):
        key = "unknown" if role == "unk" else "padding" if role == "pad" else role
        number = fields.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(number, int) and 0 <= number < len(tokens):
            named[f"{role}_token"] = str(tokens[number])
    tokenizer = from_fast(fast, template if isinstance(template, str) else None, named)
    # As llama.cpp has it for files without the key.
    stated = fields.get(
        "tokenizer.ggml.add_bos_token", fields.get("tokenizer.ggml.model") == "llama"
    )
    return replace(tokenizer, adds_bos=stated is True)


def build_fast(
    fields: Mapping[str, Any], where: str, *, as_intended: bool = False
) -> FastTokenizer:
    """Rebuild the library's tokenizer; arguments as build_tokenizer.

    Raises:
        TokenizerError: the tokenizer is missing, broken or of an unsupported kind.
    """
    tokens = _list(fields, "tokens", str, where)
    types = _list(fields, "token_type", int, where)
    if len(tokens) != len(types):
        raise TokenizerError(f"{where} has {len(tokens)} tokens, but {len(types)} token types")
    kind = fields.get("tokenizer.ggml.model")
    if not isinstance(kind, str) or kind not in _BUILDERS:
        raise TokenizerError(
            f"{where} has a tokenizer of kind {_short(kind)}; supported are {', '.join(_BUILDERS)}"
        )
    vocabulary = {
        token: number
        for number, (token, kind_) in enumerate(zip(tokens, types, strict=True))
        # Older files use the same names for fillers, but don't mark them as unused.
        if kind_ != TokenType.UNUSED and token != filler(number)
    }
    # llama.cpp decides by the model's name, and strips spaces after all marks except these.
    strips = _named_phi3(fields)
    marks = [
        AddedToken(
            token,
            special=types[number] == TokenType.CONTROL,
            normalized=False,
            rstrip=strips and token not in ("<unk>", "<s>", "<|endoftext|>"),
        )
        for token, number in vocabulary.items()
        if types[number] in _MARKS and token
    ]
    with library_errors(f"{where} has a broken tokenizer"):
        fast = _BUILDERS[kind](fields, vocabulary, where)
        split = SPLITS.get(str(fields.get("tokenizer.ggml.pre")))
        if as_intended and split is not None and split.intended is not None:
            fast.pre_tokenizer = byte_level([split.intended])
        fast.add_tokens(marks)
    return fast


def _list(fields: Mapping[str, Any], key: str, kind: Any, where: str) -> list[Any]:
    """Array from the tokenizer section, checked to hold elements of one kind."""
    values = fields.get(f"tokenizer.ggml.{key}")
    if not isinstance(values, list):
        raise TokenizerError(f"{where} has no complete tokenizer: {key} is {_short(values)}")
    wrong = next((value for value in values if not isinstance(value, kind)), None)
    if wrong is not None:
        raise TokenizerError(f"{where} has a broken tokenizer: {key} holds {_short(wrong)}")
    return values


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _sentencepiece(
    fields: Mapping[str, Any], vocabulary: Mapping[str, int], where: str
) -> FastTokenizer:
    """BPE whose merges are all splits of a piece into two, pieces of the highest score first."""
    tokens: Sequence[str] = fields["tokenizer.ggml.tokens"]
    types: Sequence[int] = fields["tokenizer.ggml.token_type"]
    scores = _list(fields, "scores", int | float, where)
    if len(scores) != len(tokens):
        raise TokenizerError(f"{where} has {len(tokens)} tokens, but {len(scores)} scores")
    if any(math.isnan(score) for score in scores):
        raise TokenizerError(f"{where} has a broken tokenizer: a score is NaN")
    # All splits of a piece are tried, at a cost that grows with the square of its length.
    if sum(len(piece) ** 2 for piece in vocabulary) > _MAX_SPLITS:
        longest = max(vocabulary, key=len)
        raise TokenizerError(
            f"{where} has tokens that are too long: token {vocabulary[longest]} has "
            f"{len(longest):,} characters"
        )
    unknown = fields.get("tokenizer.ggml.unknown_token_id", 0)
    if not isinstance(unknown, int) or not 0 <= unknown < len(tokens):
        raise TokenizerError(
            f"{where} has a broken tokenizer: unknown_token_id is {_short(unknown)}, "
            f"but there are {len(tokens)} tokens"
        )
    merges: list[tuple[float, tuple[str, str]]] = []
    for piece, number in vocabulary.items():
        if types[number] != TokenType.NORMAL:
            continue
        halves = (
            (piece[:cut], piece[cut:])
            for cut in range(1, len(piece))
            if piece[:cut] in vocabulary and piece[cut:] in vocabulary
        )
        pairs = sorted(halves, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        merges.extend((-scores[number], pair) for pair in pairs)
    merges.sort(key=lambda entry: entry[0])
    model = models.BPE(
        dict(vocabulary),
        [pair for _, pair in merges],
        unk_token=tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    fast = FastTokenizer(model)
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", _SPACE)]
    decoding = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if fields.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend(_SPACE))
        decoding.append(decoders.Strip(" ", 1, 0))
    fast.normalizer = normalizers.Sequence(steps)
    fast.decoder = decoders.Sequence(decoding)
    return fast


def _byte_level(
    fields: Mapping[str, Any], vocabulary: Mapping[str, int], where: str
) -> FastTokenizer:
    merges = _list(fields, "merges", str, where)
    pairs = [merge.partition(" ")[::2] for merge in merges]
    split = split_named(fields.get("tokenizer.ggml.pre"), where)
    fast = FastTokenizer(models.BPE(dict(vocabulary), pairs, ignore_merges=split.whole_words))
    fast.pre_tokenizer = byte_level(split.steps)
    fast.decoder = decoders.ByteLevel()
    return fast


_BUILDERS: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, int], str], FastTokenizer]] = {
    "llama": _sentencepiece,
    "gpt2": _byte_level,
}
"""Builders of tokenizers, by llama.cpp's name for the kind."""


def _named_phi3(fields: Mapping[str, Any]) -> bool:
    name = str(fields.get("general.name", "")).lower()
    return "phi-3" in name or "phi3" in name
