"""Prompts for text that a model writes: beginnings of plain documents and of chats."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from calib.corpus import load_corpus, suitable
from phi3quant.errors import CorpusError, TokenizerError
from phi3quant.notices import notify
from phi3quant.source.tokenizer import Tokenizer

_USER = "<|user|>"
# Stands for the content of a turn; no template contains it.
_CONTENT = "CONTENT0f4b7d21"
# Characters of a document that decide its first token.
_BEGINNING = 64


@dataclass(frozen=True)
class Prompts:
    """Tokens that are set rather than sampled.

    Attributes:
        start: tokens before the first token of a plain document, such as BOS; may be empty.
        firsts: first tokens of plain documents; one of them is drawn for each document.
        question: tokens before the content of a chat's first turn; empty: there are no chats.
        answer: tokens from the end of that turn to the content of the answer.
        stops: tokens that end a document.
    """

    start: tuple[int, ...]
    firsts: tuple[int, ...]
    question: tuple[int, ...]
    answer: tuple[int, ...]
    stops: frozenset[int]

    @property
    def ids(self) -> tuple[int, ...]:
        """All tokens that may be set."""
        return (*self.start, *self.firsts, *self.question, *self.answer)


def prompts_of(tokenizer: Tokenizer, stops: AbstractSet[int], length: int) -> Prompts:
    """Prompts in the tokens of a model; first tokens are as frequent as in its bundled text.

    Args:
        tokenizer: tokenizer of the model.
        stops: tokens that end a document.
        length: tokens in a window; chats are left out if their beginning fills most of it.

    Raises:
        CorpusError: no document of the bundled text has a token.
    """
    bos = tokenizer.encode(tokenizer.special_tokens.get("bos_token", "")) * tokenizer.adds_bos
    documents = load_corpus(suitable(tokenizer), "calibration").documents
    beginnings = [each.strip()[:_BEGINNING] for each in documents if isinstance(each, str)]
    encoded = [tokenizer.encode(each)[:1] for each in beginnings]
    # A text that contains BOS needs no other.
    firsts = tuple(number for ids in encoded for number in ids if ids != bos) or tuple(bos)
    if not firsts:
        raise CorpusError("the model's tokenizer has no tokens for the bundled text")
    question, answer = _chat(tokenizer)
    if len(question) > length // 2:
        note = (
            f"self: a chat's beginning takes {len(question)} of {length} tokens, so the model "
            "writes only plain text; longer windows (--seq-len) have room for chats"
        )
        notify([note])
        question = ()
    return Prompts(
        tuple(bos) if tuple(bos) != firsts else (), firsts, question, answer, frozenset(stops)
    )


def _chat(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens before a user's content, and between it and the answer; none without a template."""
    if tokenizer.chat_template is None and len(tokenizer.encode(_USER)) != 1:
        return (), ()
    try:
        turns = [{"role": "user", "content": _CONTENT}]
        text = tokenizer.render_chat(turns, add_generation_prompt=True)
    except TokenizerError as error:
        notify([f"self: the model writes only plain text, since {error}"])
        return (), ()
    before, _, _ = text.partition(_CONTENT)
    _, content, after = text.rpartition(_CONTENT)
    if not (content and before):
        notify(
            ["self: the chat template changes the user's text; the model writes only plain text"]
        )
        return (), ()
    return tuple(tokenizer.encode(before)), tuple(tokenizer.encode(after))
