"""A model's tokenizer and chat template."""

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as FastTokenizer

from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.errors import TokenizerError
from phi3quant.source.chat_template import render_template
from phi3quant.source.content_parts import has_parts, joined, reads_parts
from phi3quant.source.fast_tokenizer import adds_first, read_fast, whole_texts
from phi3quant.source.pieces_of_text import CHARACTERS, Spans, encode_in_pieces
from phi3quant.source.sentencepiece_encoder import read_pieces
from phi3quant.source.special_tokens import special_tokens
from phi3quant.source.template_files import PROCESSOR_FILE, TEMPLATE_FILE, chat_templates

FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    TEMPLATE_FILE,
    PROCESSOR_FILE,
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)
"""Files of a model folder besides weights and config; exports copy those that exist."""

END_OF_TURN = ("<|end|>", "<|im_end|>")
"""Tokens that end a turn of a chat; generation stops there, although config.json seldom lists
them."""

Message = Mapping[str, Any]
"""A turn of a chat: ``role``, ``content``, and any other key that a template reads."""

_QUESTION: Message = {"role": "user", "content": "What is  2+2?\nSay it in one word."}
_ANSWER: Message = {"role": "assistant", "content": "Four."}
_SYSTEM: Message = {"role": "system", "content": "Be brief."}
TRIAL_CHATS: Sequence[Sequence[Message]] = (
    (_QUESTION,),
    (_QUESTION, _ANSWER, _QUESTION),
    (_SYSTEM, _QUESTION),
)
"""Chats for testing a template; baselines record the rendered texts."""


class Encoder(Protocol):
    """Converter from text to token ids and back that adds no tokens."""

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; special tokens in it become their ids, no BOS or EOS is added."""

    def spans(self, text: str) -> Spans:
        """The same ids with their positions in ``text``."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``, special tokens included."""

    def vocabulary(self) -> Mapping[str, int]:
        """Id of every token, added ones included."""


@dataclass(frozen=True)
class Tokenizer:
    """A model's tokenizer and chat template."""

    encoder: Encoder
    chat_template: str | None
    special_tokens: Mapping[str, str]
    """Texts of special tokens by their names in chat templates, such as ``bos_token``."""
    digest: str
    """SHA-256 of the vocabulary, that is, of all pairs of id and token."""
    tool_template: str | None = None
    """Chat template for chats with tools, if the model has one for them alone."""
    adds_bos: bool = False
    """Whether the model expects ``bos_token`` at the start of every text."""

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; no BOS or EOS is added."""
        if len(text) <= CHARACTERS:
            return self.encoder.encode(text)
        ids: list[int] = self.encode_long(text).tolist()
        return ids

    def encode_long(self, text: str, limit: int | None = None) -> NDArray[np.int32]:
        """Token ids of ``text`` as an array, encoded piece by piece.

        Args:
            text: a text of any length.
            limit: number of tokens needed; the rest of the text isn't encoded.

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
        variables: Mapping[str, Any] = MappingProxyType({}),
        now: dt.datetime | None = None,
    ) -> str:
        """Text of a chat in the model's format, as by transformers' ``apply_chat_template``.

        A model without a chat template gets Phi-3's format. Content in parts is joined to one text
        where the template doesn't read parts.

        Args:
            messages: the turns, with all keys that a template may read; keys that are None are
                left out.
            tools: descriptions of tools, passed to the template.
            add_generation_prompt: end with the beginning of the assistant's turn.
            variables: further variables of the template, such as ``documents``.
            now: date for templates that print one; None for a fixed date.

        Raises:
            TokenizerError: the model's template fails on these messages.
        """
        turns = [
            {key: value for key, value in message.items() if value is not None}
            for message in messages
        ]
        if has_parts(turns) and not self.reads_parts(tools):
            turns = [joined(turn) for turn in turns]
        template = self._template(tools)
        if template is None:
            if tools is not None:
                raise TokenizerError(
                    "the model has no chat template, and Phi-3's format can't describe tools"
                )
            return _phi3_chat(turns, add_generation_prompt=add_generation_prompt)
        values = {
            **self.special_tokens,
            "documents": None,
            **variables,
            "messages": turns,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        return render_template(template, values, now)

    def reads_parts(self, tools: Sequence[Any] | None = None) -> bool:
        """Whether the template of chats with ``tools`` reads content in parts."""
        template = self._template(tools)
        names = tuple(sorted(self.special_tokens.items()))
        return template is not None and reads_parts(template, names)

    def _template(self, tools: Sequence[Any] | None) -> str | None:
        return (
            self.tool_template if tools is not None and self.tool_template else self.chat_template
        )


def _phi3_chat(messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    for message in messages:
        if not isinstance(message.get("content"), str):
            raise TokenizerError(
                "the model has no chat template, and Phi-3's format has no place for a turn "
                f"without text ({_short(message)})"
            )
    turns = "".join(f"<|{m['role']}|>\n{m['content']}<|end|>\n" for m in messages)
    return turns + ("<|assistant|>\n" if add_generation_prompt else "")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load tokenizer.json of ``folder`` or, without it, tokenizer.model.

    Raises:
        TokenizerError: both are missing, or the file can't be read.
        MissingExtraError: there is only tokenizer.model, and sentencepiece isn't installed.
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
    templates, names = chat_templates(folder, settings), special_tokens(folder, settings)
    if file.suffix == ".json":
        fast = read_fast(file)
        tokenizer = from_fast(fast, templates.default, names)
        first = adds_first(fast, names.get("bos_token"))
        adds_bos = _stated(settings, "add_bos_token", otherwise=first)
        return replace(tokenizer, tool_template=templates.tool_use, adds_bos=adds_bos)
    encoder = read_pieces(file)
    digest = _digest(encoder.vocabulary())
    # Slow tokenizers of this kind add it unless their settings exclude it.
    adds_bos = _stated(settings, "add_bos_token", otherwise=True)
    return Tokenizer(encoder, templates.default, names, digest, templates.tool_use, adds_bos)


def require_rows(tokenizer: Tokenizer, ids: Sequence[int] | NDArray[Any], rows: int) -> None:
    """Check that every token has a row in the model's embedding.

    Args:
        tokenizer: the tokenizer of ``ids``, for the message.
        ids: token ids, of any shape.
        rows: number of rows of the embedding.

    Raises:
        TokenizerError: a token has no row.
    """
    largest = int(np.max(ids, initial=-1))
    if largest >= rows:
        raise TokenizerError(
            f"the text has token {largest} ({_short(tokenizer.decode([largest]))}), but the "
            f"model's embedding has {rows} rows; the tokenizer doesn't belong to the model, or "
            "tokens were added without resizing it"
        )


def require_tokenizer_json(folder: Path, reader: str) -> Path:
    """Path of tokenizer.json in ``folder``.

    Args:
        folder: folder of a model.
        reader: program that needs the file, for the message.

    Raises:
        TokenizerError: the file is missing.
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
    """Tokenizer from one of the tokenizers library, a chat template and special tokens."""
    digest = _digest(fast.get_vocab(with_added_tokens=True))
    return Tokenizer(whole_texts(fast), chat_template, special_tokens, digest)


def _stated(settings: Mapping[str, Any], key: str, *, otherwise: bool) -> bool:
    value = settings.get(key)
    return value if isinstance(value, bool) else otherwise


def _digest(vocabulary: Mapping[str, int]) -> str:
    by_id = sorted((number, piece) for piece, number in vocabulary.items())
    return hashlib.sha256(json.dumps(by_id).encode()).hexdigest()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
