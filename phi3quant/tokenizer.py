"""The model's tokenizer: text to ids, and chats to text by the model's own template."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jinja2
import jinja2.sandbox
from tokenizers import Tokenizer as FastTokenizer

from phi3quant.checkpoint import read_json_if_there
from phi3quant.errors import MissingExtraError, TokenizerError

FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)
"""What a model folder carries besides weights and config; exports take along what is there."""

END_OF_TURN = ("<|end|>", "<|im_end|>")
"""Tokens that end a turn of a chat, where generation must stop; config.json seldom says so."""

Message = Mapping[str, str]
"""A turn of a chat: ``role`` and ``content``."""


class Encoder(Protocol):
    """Anything that makes ids of text and text of ids, adding nothing of its own."""

    def encode(self, text: str) -> list[int]:
        """Token ids; added tokens in the text become their ids, no BOS or EOS is put in."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included."""


@dataclass(frozen=True)
class Tokenizer:
    """A model's tokenizer and chat template."""

    encoder: Encoder
    chat_template: str | None
    special_tokens: Mapping[str, str]
    digest: str
    """SHA-256 over the vocabulary: which token each id stands for."""

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; no BOS or EOS is added."""
        return self.encoder.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``, special tokens included."""
        return self.encoder.decode(ids)

    def render_chat(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = False
    ) -> str:
        """A chat as the model was trained to see it.

        Without a template of the model's own, Phi-3's format is used.

        Raises:
            TokenizerError: the model's template fails on these messages.
        """
        if self.chat_template is None:
            turns = "".join(f"<|{m['role']}|>\n{m['content']}<|end|>\n" for m in messages)
            return turns + ("<|assistant|>\n" if add_generation_prompt else "")
        # The template comes with the model, so it runs in jinja's sandbox.
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
        try:
            return environment.from_string(self.chat_template).render(
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                **self.special_tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise TokenizerError(f"the model's chat template failed: {error}") from None


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


@dataclass(frozen=True)
class _JsonEncoder:
    inner: FastTokenizer

    def encode(self, text: str) -> list[int]:
        return list(self.inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.inner.decode(list(ids), skip_special_tokens=False))


@dataclass(frozen=True)
class _SentencePieceEncoder:
    """A tokenizer.model alone, with the added tokens cut out first as slow tokenizers do."""

    inner: Any  # sentencepiece carries no types
    added: Mapping[str, int]
    strips_right: frozenset[str]

    def vocabulary(self) -> dict[str, int]:
        pieces = {self.inner.id_to_piece(n): n for n in range(self.inner.get_piece_size())}
        return {**pieces, **self.added}

    def encode(self, text: str) -> list[int]:
        if not self.added:
            return list(self.inner.encode(text))
        longest_first = sorted(self.added, key=len, reverse=True)
        pieces = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
        ids: list[int] = []
        strip = False
        for piece in pieces:
            if piece in self.added:
                ids.append(self.added[piece])
                strip = piece in self.strips_right
                continue
            ids.extend(self.inner.encode(piece.lstrip() if strip else piece))
            strip = False
        return ids

    def decode(self, ids: Sequence[int]) -> str:
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


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load ``folder``'s tokenizer.json, or its tokenizer.model.

    Raises:
        TokenizerError: neither is there, or it can't be read.
        MissingExtraError: only tokenizer.model is there and sentencepiece isn't installed.
    """
    settings = read_json_if_there(folder / "tokenizer_config.json")
    file = next(
        (folder / n for n in ("tokenizer.json", "tokenizer.model") if (folder / n).is_file()), None
    )
    if file is None:
        raise TokenizerError(
            f"{folder} has neither tokenizer.json nor tokenizer.model; "
            "copy the tokenizer files of the original model into it"
        )
    template = _chat_template(folder, settings)
    names = {
        key: name for key in ("bos_token", "eos_token") if (name := _token_text(settings, key))
    }
    if file.suffix == ".json":
        return from_fast(_read_json(file), template, names)
    encoder = _piece_encoder(file, settings)
    return Tokenizer(encoder, template, names, _digest(encoder.vocabulary()))


def require_tokenizer_json(folder: Path, reader: str) -> Path:
    """The file tokenizer.json of ``folder``.

    Args:
        folder: of a model.
        reader: who needs it, for the message.

    Raises:
        TokenizerError: it isn't there.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise TokenizerError(
            f"{folder} has no tokenizer.json, which {reader} needs; "
            "save one with transformers (AutoTokenizer.from_pretrained(...).save_pretrained(...))"
        )
    return file


def from_fast(
    fast: FastTokenizer, chat_template: str | None, special_tokens: Mapping[str, str]
) -> Tokenizer:
    """A tokenizer of the tokenizers library with what a model adds to it."""
    digest = _digest(fast.get_vocab(with_added_tokens=True))
    return Tokenizer(_JsonEncoder(fast), chat_template, special_tokens, digest)


def _digest(vocabulary: Mapping[str, int]) -> str:
    by_id = sorted((number, piece) for piece, number in vocabulary.items())
    return hashlib.sha256(json.dumps(by_id).encode()).hexdigest()


def _read_json(file: Path) -> FastTokenizer:
    try:
        return FastTokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001 - what the library raises for any bad file
        raise TokenizerError(f"{file} can't be read: {error}") from None


def _piece_encoder(file: Path, settings: Mapping[str, Any]) -> _SentencePieceEncoder:
    try:
        import sentencepiece  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError("tokenizer.model without tokenizer.json", "sentencepiece") from None
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.load(str(file))
    except (OSError, RuntimeError) as error:
        raise TokenizerError(f"{file} can't be read: {error}") from None
    added = {
        str(k): int(v) for k, v in read_json_if_there(file.parent / "added_tokens.json").items()
    }
    strips = set()
    for number, token in dict(settings.get("added_tokens_decoder", {})).items():
        if int(number) >= processor.get_piece_size() or token.get("special"):
            added[token["content"]] = int(number)
        if token.get("rstrip"):
            strips.add(token["content"])
    return _SentencePieceEncoder(processor, added, frozenset(strips))


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name, as some checkpoints have them
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _token_text(settings: Mapping[str, Any], key: str) -> str | None:
    value = settings.get(key)
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None
