"""The model's tokenizer: text to ids, and chats to text by the model's own template."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as FastTokenizer

from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.errors import TokenizerError
from phi3quant.source.chat_template import render_template
from phi3quant.source.fast_tokenizer import read_fast, whole_texts
from phi3quant.source.pieces_of_text import CHARACTERS, Spans, encode_in_pieces
from phi3quant.source.sentencepiece_encoder import read_pieces

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

Message = Mapping[str, Any]
"""A turn of a chat: ``role``, ``content``, and whatever else its template reads."""

_QUESTION: Message = {"role": "user", "content": "What is  2+2?\nSay it in one word."}
_ANSWER: Message = {"role": "assistant", "content": "Four."}
_SYSTEM: Message = {"role": "system", "content": "Be brief."}
TRIAL_CHATS: Sequence[Sequence[Message]] = (
    (_QUESTION,),
    (_QUESTION, _ANSWER, _QUESTION),
    (_SYSTEM, _QUESTION),
)
"""Chats that a template is tried on; baselines record what it makes of them."""


class Encoder(Protocol):
    """Anything that makes ids of text and text of ids, adding nothing of its own."""

    def encode(self, text: str) -> list[int]:
        """Token ids; added tokens in the text become their ids, no BOS or EOS is put in."""

    def spans(self, text: str) -> Spans:
        """The same ids, with the place of each in the text."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included."""


@dataclass(frozen=True)
class Tokenizer:
    """A model's tokenizer and chat template."""

    encoder: Encoder
    chat_template: str | None
    special_tokens: Mapping[str, str]
    """Texts by the names that chat templates use, such as ``bos_token``."""
    digest: str
    """SHA-256 over the vocabulary: which token each id stands for."""

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; no BOS or EOS is added."""
        if len(text) <= CHARACTERS:
            return self.encoder.encode(text)
        ids: list[int] = self.encode_long(text).tolist()
        return ids

    def encode_long(self, text: str, limit: int | None = None) -> NDArray[np.int32]:
        """Token ids of ``text`` in an array, encoded piece by piece.

        Args:
            text: of any length.
            limit: tokens that are needed; the text after them isn't read.

        Returns:
            int32 [tokens], at most ``limit``.
        """
        return encode_in_pieces(self.encoder.spans, text, limit)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``, special tokens included."""
        return self.encoder.decode(ids)

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """A chat as the model was trained to see it.

        Without a template of the model's own, Phi-3's format is used.

        Args:
            messages: the turns, with all keys that a template may read.
            tools: descriptions of tools, for the template.
            add_generation_prompt: end with the beginning of the assistant's turn.

        Raises:
            TokenizerError: the model's template fails on these messages.
        """
        if self.chat_template is None:
            if tools is not None:
                raise TokenizerError("the model has no chat template that could name tools")
            return _phi3_chat(messages, add_generation_prompt=add_generation_prompt)
        return render_template(
            self.chat_template,
            {
                "messages": [dict(message) for message in messages],
                "tools": tools,
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
                **self.special_tokens,
            },
        )


def _phi3_chat(messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    for message in messages:
        if not isinstance(message.get("content"), str):
            raise TokenizerError(
                f"the model has no chat template, and Phi-3's format has no place for a turn "
                f"without text ({_short(message)})"
            )
    turns = "".join(f"<|{m['role']}|>\n{m['content']}<|end|>\n" for m in messages)
    return turns + ("<|assistant|>\n" if add_generation_prompt else "")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load ``folder``'s tokenizer.json, or its tokenizer.model.

    Raises:
        TokenizerError: neither is there, or it can't be read.
        MissingExtraError: only tokenizer.model is there and sentencepiece isn't installed.
    """
    file = next(
        (folder / n for n in ("tokenizer.json", "tokenizer.model") if (folder / n).is_file()), None
    )
    if file is None:
        raise TokenizerError(
            f"{folder} has neither tokenizer.json nor tokenizer.model; "
            "copy the tokenizer files of the original model into it"
        )
    settings = read_json_if_there(folder / "tokenizer_config.json", raises=TokenizerError)
    template, names = _chat_template(folder, settings), _special_tokens(folder, settings)
    if file.suffix == ".json":
        return from_fast(read_fast(file), template, names)
    encoder = read_pieces(file)
    return Tokenizer(encoder, template, names, _digest(encoder.vocabulary()))


def require_rows(tokenizer: Tokenizer, ids: Sequence[int] | NDArray[Any], rows: int) -> None:
    """Check once, where a text and a model meet, that every token has a row of the embedding.

    Args:
        tokenizer: gave the ids.
        ids: any shape.
        rows: of the model's embedding.

    Raises:
        TokenizerError: a token has none.
    """
    largest = int(np.max(ids, initial=-1))
    if largest >= rows:
        raise TokenizerError(
            f"the text has token {largest} ({_short(tokenizer.decode([largest]))}), but the "
            f"model's embedding has {rows} rows; the tokenizer doesn't belong to the model, or "
            "tokens were added without resizing it"
        )


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
    return Tokenizer(whole_texts(fast), chat_template, special_tokens, digest)


def _digest(vocabulary: Mapping[str, int]) -> str:
    by_id = sorted((number, piece) for piece, number in vocabulary.items())
    return hashlib.sha256(json.dumps(by_id).encode()).hexdigest()


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"{file} can't be read: {error}") from None
    template = settings.get("chat_template")
    if template is None or isinstance(template, str):
        return template
    where = f"{folder / 'tokenizer_config.json'}: chat_template"
    named = dict(template) if isinstance(template, Mapping) else {}
    if isinstance(template, list):  # several by name, as some checkpoints have them
        for entry in template:
            if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
                raise TokenizerError(f"{where} lists {_short(entry)}, not a name and a template")
            named[entry["name"]] = entry.get("template")
    if not isinstance(named.get("default"), str):
        raise TokenizerError(
            f"{where} has no template named default (it is {_short(template)}); "
            "put the right one into chat_template.jinja"
        )
    return str(named["default"])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _special_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by their names; older models have them in a file of their own."""
    older = read_json_if_there(folder / "special_tokens_map.json", raises=TokenizerError)
    further = settings.get("extra_special_tokens")
    texts = {
        name: _token_text(source.get(name))
        for source in (older, further if isinstance(further, Mapping) else {}, settings)
        for name in source
        if name.endswith("_token") and not name.startswith("add_")
    }
    return {name: text for name, text in texts.items() if text}


def _token_text(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None
