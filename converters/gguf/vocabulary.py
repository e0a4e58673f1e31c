"""Tokenizer of a model as GGUF metadata for llama.cpp.

It is derived from tokenizer.json, which every published Phi-3 has. A SentencePiece BPE becomes
llama.cpp's ``llama`` tokenizer, a byte-level BPE its ``gpt2`` tokenizer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType

from converters.gguf.splits import split_name
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
# Pieces that llama.cpp requires before it strips spaces after special tokens; see model_name.
_STRIP_PIECES = ("</s>", "<unk>", "<s>", "<|endoftext|>")


@dataclass(frozen=True)
class GgufVocabulary:
    """Tokenizer section of a GGUF file.

    Attributes:
        model: ``llama`` or ``gpt2``.
        pre: llama.cpp's name for the way in which text is split first.
        tokens, types, scores: one entry per id; scores only for ``llama``.
        merges: merges of BPE; only for ``gpt2``.
        special: ids by llama.cpp's names (bos, eos, unk, pad, eot).
        adds: whether texts start with bos and end with eos; unknown choices are left out.
        strips_right: whether spaces after special tokens are dropped.
        space_prefix: whether texts get a leading space; None for llama.cpp's default, which is yes.
        chat_template: Jinja template.
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
        """Metadata that determines the encoding of text, with the keys of a file."""
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
        """Whether it has the pieces that llama.cpp requires before it strips spaces."""
        return all(piece in self.tokens for piece in _STRIP_PIECES)

    def model_name(self, name: str) -> str:
        """Adapt ``name`` so that llama.cpp treats spaces after special tokens correctly.

        llama.cpp strips them if general.name contains phi-3 or phi3, and then requires the pieces
        of ``can_strip``.
        """
        named_phi3 = any(word in name.lower() for word in ("phi-3", "phi3"))
        strips = self.strips_right and self.can_strip
        if named_phi3 == strips:
            return name
        if strips:
            return f"{name} (phi3)"
        return (
            name if not named_phi3 else name.lower().replace("phi-3", "phi").replace("phi3", "phi")
        )


def read_vocabulary(
    folder: Path, vocab_size: int, tokenizer: Tokenizer | None = None
) -> GgufVocabulary:
    """Derive the metadata from a model folder's tokenizer files.

    Args:
        folder: folder with tokenizer.json, and tokenizer_config.json and config.json if any.
        vocab_size: rows of the embedding; ids without a token get fillers.
        tokenizer: tokenizer of the model; None to read it from the folder.

    Raises:
        TokenizerError: there is no tokenizer.json, or llama.cpp has no equivalent of its tokenizer.
    """
    file = require_tokenizer_json(folder, "a GGUF file")
    loaded = tokenizer or load_tokenizer(folder)
    described = read_json(file, raises=TokenizerError)
    settings = read_json_if_there(folder / "tokenizer_config.json", raises=TokenizerError)
    model = described.get("model") or {}
    if model.get("type") != "BPE":
        raise TokenizerError(
            f"{file}: llama.cpp has no equivalent of a tokenizer of type {model.get('type')!r}; "
            "export another format than GGUF"
        )
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
        pre="default" if is_llama else split_name(file, described),
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
    """Whether texts start with bos and end with eos, by role.

    If a file has no such key, llama.cpp starts every text of a ``llama`` tokenizer with bos. Since
    version 5, transformers stores the choice only in tokenizer.json's post_processor.
    """
    before, after = _surroundings(processor)
    stated = {"bos": settings.get("add_bos_token"), "eos": settings.get("add_eos_token")}
    derived = {"bos": before, "eos": after}
    return {
        role: value if isinstance(value, bool) else derived[role] for role, value in stated.items()
    }


def _surroundings(processor: Any) -> tuple[bool, bool]:
    """Whether a post_processor adds tokens before and after a single text."""
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
    """Whether tokenizer.json adds a space before a text, in either of two ways."""
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
    """Text that llama.cpp uses for an id without a token."""
    return f"[PAD{number}]"


def _merge_pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return str(left), str(right)


def _scores(
    file: Path, pieces: Mapping[str, int], merges: Sequence[tuple[str, str]], size: int
) -> list[float]:
    """SentencePiece scores of pieces: the earlier a piece is merged, the higher its score.

    llama.cpp merges by score, tokenizer.json by the order of its list. Both agree because pieces
    are numbered in the order in which they were learned. Llama's vocabulary, which Phi-3 uses,
    merges runs of spaces last; they get the lowest score.
    """
    order = [pieces[left + right] for left, right in merges]
    learned = [pieces[left + right] for left, right in merges if (left + right).strip(_SPACE)]
    spaces_last = len(learned) < len(order) and order[: len(learned)] == learned
    if (learned if spaces_last else order) != sorted(learned if spaces_last else order):
        raise TokenizerError(f"{file}: merges are not in the order of their pieces' ids")
    first = min(order, default=0)
    scores = [_FILLER_SCORE] * size
    for piece, number in pieces.items():
        last = spaces_last and not piece.strip(_SPACE)
        scores[number] = _LOWEST_SCORE if last else -float(max(0, number - first))
    return scores


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
    # llama.cpp stops only at an end of turn that has its own key.
    end = next((numbers[text] for text in END_OF_TURN if text in numbers), None)
    if end is not None:
        ids["eot"] = end
    return ids
