"""A model's tokenizer as GGUF metadata: what llama.cpp tokenizes with.

It is derived from tokenizer.json, which every published Phi-3 has: a SentencePiece BPE there
becomes llama.cpp's ``llama`` tokenizer, a byte-level BPE its ``gpt2`` one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType

from phi3quant.disk.untrusted_json import read_json, read_json_if_there
from phi3quant.errors import TokenizerError
from phi3quant.source.tokenizer import (
    END_OF_TURN,
    Tokenizer,
    load_tokenizer,
    require_tokenizer_json,
)

_FILLER_SCORE, _ADDED_SCORE, _LOWEST_SCORE = -10000.0, -1000.0, -1e9
_SPACE = "▁"
# What llama.cpp insists on before it strips spaces after special tokens; see names_phi3.
_STRIP_PIECES = ("</s>", "<unk>", "<s>", "<|endoftext|>")
BYTE_LEVEL_SPLITS: Mapping[str, str] = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gpt-4o": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
"""Patterns by which tokenizer.json splits text before byte-level BPE, by llama.cpp's names."""


@dataclass(frozen=True)
class GgufVocabulary:
    """The tokenizer section of a GGUF file.

    Attributes:
        model: ``llama`` or ``gpt2``.
        pre: llama.cpp's name for how text is split first.
        tokens, types, scores: one per id; scores only for ``llama``.
        merges: only for ``gpt2``.
        special: ids by llama.cpp's names (bos, eos, unk, pad, eot).
        adds: whether text gets a bos before it and an eos after it; only what is known.
        strips_right: whether spaces after special tokens disappear.
        space_prefix: whether a space is put before a text; None: llama.cpp's default, which is yes.
        chat_template: jinja.
    """

    model: str
    pre: str
    tokens: Sequence[str]
    types: Sequence[TokenType]
    scores: Sequence[float] | None
    merges: Sequence[str] | None
    special: Mapping[str, int]
    adds: Mapping[str, bool]
    strips_right: bool
    space_prefix: bool | None
    chat_template: str | None

    def fields(self) -> dict[str, Any]:
        """The metadata that decides how text is encoded, as a file has it."""
        fields = {
            "model": self.model,
            "pre": self.pre,
            "tokens": list(self.tokens),
            "token_type": [int(kind) for kind in self.types],
            "scores": self.scores,
            "merges": self.merges,
            "unknown_token_id": self.special.get("unk"),
            "add_space_prefix": self.space_prefix,
        }
        named = {f"tokenizer.ggml.{key}": value for key, value in fields.items()}
        named["general.name"] = self.model_name("model")
        return {key: value for key, value in named.items() if value is not None}

    @property
    def can_strip(self) -> bool:
        """Whether it has the pieces that llama.cpp insists on before it strips spaces."""
        return all(piece in self.tokens for piece in _STRIP_PIECES)

    def model_name(self, name: str) -> str:
        """``name`` such that llama.cpp treats spaces after special tokens as this tokenizer does.

        It strips them if general.name contains phi-3 or phi3, and then insists on some pieces.
        """
        says_phi3 = any(word in name.lower() for word in ("phi-3", "phi3"))
        if says_phi3 == self.strips_right:
            return name
        if self.strips_right and self.can_strip:
            return f"{name} (phi3)"
        return (
            name if not says_phi3 else name.lower().replace("phi-3", "phi").replace("phi3", "phi")
        )


def read_vocabulary(
    folder: Path, vocab_size: int, tokenizer: Tokenizer | None = None
) -> GgufVocabulary:
    """Derive the metadata from a model folder's tokenizer files.

    Args:
        folder: with tokenizer.json, and tokenizer_config.json and generation_config.json if any.
        vocab_size: rows of the embedding; ids without a token become fillers.
        tokenizer: of the model; None: read from the folder.

    Raises:
        TokenizerError: there is no tokenizer.json, or llama.cpp has no equal of its tokenizer.
    """
    file = require_tokenizer_json(folder, "a GGUF file")
    loaded = tokenizer or load_tokenizer(folder)
    described = read_json(file, raises=TokenizerError)
    settings = read_json_if_there(folder / "tokenizer_config.json", raises=TokenizerError)
    model = described.get("model") or {}
    if model.get("type") != "BPE":
        raise TokenizerError(f"{file}: llama.cpp has no equal of a {model.get('type')!r} tokenizer")
    pieces: Mapping[str, int] = model["vocab"]
    added: Sequence[Mapping[str, Any]] = described.get("added_tokens") or []
    size = vocab_size
    every = {**pieces, **{str(token["content"]): int(token["id"]) for token in added}}
    rowless = sorted((number, text) for text, number in every.items() if number >= size)
    if rowless:
        number, text = rowless[0]
        raise TokenizerError(
            f"{file}: token {number} ({text!r}) has no row in the model's embedding, which has "
            f"{size}; resize the embedding or remove the token from the tokenizer"
        )
    tokens = [filler(number) for number in range(size)]
    types = [TokenType.UNUSED] * size
    for piece, number in pieces.items():
        tokens[number], types[number] = piece, TokenType.NORMAL
    is_llama = bool(model.get("byte_fallback"))
    merges = [_merge_pair(merge) for merge in model["merges"]]
    scores = None
    if is_llama:
        scores = _scores(file, pieces, merges, size)
        for piece, number in pieces.items():
            if len(piece) == len("<0x00>") and piece.startswith("<0x"):
                types[number] = TokenType.BYTE
    for token in added:
        number = int(token["id"])
        tokens[number] = str(token["content"])
        types[number] = TokenType.CONTROL if token.get("special") else TokenType.USER_DEFINED
        if scores is not None:
            scores[number] = _ADDED_SCORE
    return GgufVocabulary(
        model="llama" if is_llama else "gpt2",
        pre="default" if is_llama else _split_name(file, described),
        tokens=tokens,
        types=types,
        scores=scores,
        merges=None if is_llama else [f"{left} {right}" for left, right in merges],
        special=_special_ids(folder, settings, model, {text: i for i, text in enumerate(tokens)}),
        adds=_adds(settings, described.get("post_processor")),
        strips_right=any(token.get("rstrip") for token in added),
        space_prefix=None if not is_llama or _has_space_prefix(described) else False,
        chat_template=loaded.chat_template,
    )


def _adds(settings: Mapping[str, Any], processor: Any) -> dict[str, bool]:
    """Whether a text gets a bos before it and an eos after it.

    Without the key in the file, llama.cpp begins every text of a ``llama`` tokenizer with bos.
    Since version 5, transformers states it in tokenizer.json's post_processor alone.
    """
    before, after = _surroundings(processor)
    stated = {"bos": settings.get("add_bos_token"), "eos": settings.get("add_eos_token")}
    derived = {"bos": before, "eos": after}
    return {
        role: value if isinstance(value, bool) else derived[role] for role, value in stated.items()
    }


def _surroundings(processor: Any) -> tuple[bool, bool]:
    """Whether a post_processor puts tokens before, and after, a single text."""
    if not isinstance(processor, Mapping):
        return False, False
    kind = processor.get("type")
    if kind == "Sequence":
        parts = [_surroundings(part) for part in processor.get("processors", [])]
        return any(before for before, _ in parts), any(after for _, after in parts)
    if kind == "TemplateProcessing":
        pieces = [next(iter(piece)) for piece in processor.get("single", [])]
        place = pieces.index("Sequence") if "Sequence" in pieces else 0
        return "SpecialToken" in pieces[:place], "SpecialToken" in pieces[place:]
    around = kind in {"BertProcessing", "RobertaProcessing"}
    return around, around


def _has_space_prefix(described: Mapping[str, Any]) -> bool:
    """Whether tokenizer.json puts a space before a text, in one of the two ways there are."""
    steps = [*_steps(described.get("normalizer")), *_steps(described.get("pre_tokenizer"))]
    return any(
        step.get("type") == "Prepend"
        or (
            step.get("type") == "Metaspace"
            and step.get("prepend_scheme", "always") != "never"
            and step.get("add_prefix_space", True)
        )
        for step in steps
    )


def _steps(section: Any) -> list[Mapping[str, Any]]:
    if not isinstance(section, Mapping):
        return []
    steps = section.get("normalizers", section.get("pretokenizers", [section]))
    return [step for step in steps if isinstance(step, Mapping)]


def filler(number: int) -> str:
    """What llama.cpp calls an id that stands for nothing."""
    return f"[PAD{number}]"


def _merge_pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return str(left), str(right)


def _scores(
    file: Path, pieces: Mapping[str, int], merges: Sequence[tuple[str, str]], size: int
) -> list[float]:
    """SentencePiece's scores: the earlier a piece is merged, the higher, as its trainer has it.

    llama.cpp merges by score where tokenizer.json merges by the order of its list; both agree
    because pieces are numbered in the order in which they were learned. Llama's vocabulary, which
    is Phi-3's, merges runs of spaces after all else; there they have the lowest of scores.
    """
    order = [pieces[left + right] for left, right in merges]
    learned = [pieces[left + right] for left, right in merges if (left + right).strip(_SPACE)]
    spaces_last = len(learned) < len(order) and order[: len(learned)] == learned
    if (learned if spaces_last else order) != sorted(learned if spaces_last else order):
        raise TokenizerError(f"{file}: merges are not in the order of their pieces' numbers")
    first = min(order, default=0)
    scores = [_FILLER_SCORE] * size
    for piece, number in pieces.items():
        last = spaces_last and not piece.strip(_SPACE)
        scores[number] = _LOWEST_SCORE if last else -float(max(0, number - first))
    return scores


def _split_name(file: Path, described: Mapping[str, Any]) -> str:
    """llama.cpp's name for tokenizer.json's pre_tokenizer."""
    section = described.get("pre_tokenizer") or {}
    parts = section.get("pretokenizers", [section])
    kinds = [part.get("type") for part in parts]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"]:
        pattern = parts[0].get("pattern", {}).get("Regex")
        for name, known in BYTE_LEVEL_SPLITS.items():
            if pattern == known:
                return name
    raise TokenizerError(
        f"{file}: how it splits text ({', '.join(map(str, kinds))}) is none of the ways that "
        "llama.cpp has a name for"
    )


def _special_ids(
    folder: Path,
    settings: Mapping[str, Any],
    model: Mapping[str, Any],
    numbers: Mapping[str, int],
) -> dict[str, int]:
    config = read_json_if_there(folder / "config.json", raises=TokenizerError)
    ids: dict[str, int] = {}
    for role in ("bos", "eos", "unk", "pad"):
        text = settings.get(f"{role}_token")
        if isinstance(text, Mapping):
            text = text.get("content")
        if role == "unk" and text is None:
            text = model.get("unk_token")
        number = numbers.get(str(text)) if text is not None else config.get(f"{role}_token_id")
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(numbers):
            ids[role] = number
    # llama.cpp stops there because it is written down as the end-of-turn token.
    end = next((numbers[text] for text in END_OF_TURN if text in numbers), None)
    if end is not None:
        ids["eot"] = end
    return ids
