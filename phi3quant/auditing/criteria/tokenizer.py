"""Tokenizer integrity: vocabulary, special tokens, template and stop tokens against each other."""

import re
from collections.abc import Iterator, Mapping

from converters.stop_tokens import known_tokens
from phi3quant.auditing.finding import Point, contradicted, judged, not_shown, quoted, shown
from phi3quant.auditing.subject import Subject, mapping
from phi3quant.errors import InputError, MissingExtraError, TokenizerError
from phi3quant.gating.facts import STOP_TOKENS, facts
from phi3quant.source.fast_tokenizer import FastEncoder
from phi3quant.source.sentencepiece_encoder import PieceEncoder
from phi3quant.source.tokenizer import END_OF_TURN, Tokenizer

_SETTINGS = "tokenizer_config.json"
_FILES = ("tokenizer.json", "tokenizer.model")
_IDS = ("bos_token_id", "eos_token_id")
_MARK = re.compile(r"<\|[^|<>\s]{1,40}\|>")
_WORD = "Four."
_CHAT = (
    {"role": "user", "content": "What is 2+2? Say it in one word."},
    {"role": "assistant", "content": _WORD},
    {"role": "user", "content": "Again."},
)
_LISTED = 3


def tokenizer_integrity(subject: Subject) -> Iterator[Point]:
    """Points on the tokenizer; one that can't be read contradicts the model."""
    if not _has_tokenizer(subject):
        yield not_shown("tokenizer", "there is none")
        return
    try:
        tokenizer = subject.opened.tokenizer
    except MissingExtraError as error:
        yield not_shown("tokenizer", subject.message(error))
    except TokenizerError as error:
        yield contradicted("tokenizer", subject.message(error))
    else:
        vocabulary = _vocabulary(tokenizer)
        yield from _rows(subject, vocabulary)
        yield from _added(subject, vocabulary)
        yield from _named(subject, tokenizer)
        yield from _template(subject, tokenizer)


def _has_tokenizer(subject: Subject) -> bool:
    if subject.metadata:
        return "tokenizer.ggml.tokens" in subject.metadata
    return any((subject.opened.folder / name).is_file() for name in _FILES)


def _vocabulary(tokenizer: Tokenizer) -> Mapping[str, int]:
    encoder = tokenizer.encoder
    if isinstance(encoder, FastEncoder):
        return encoder.inner.get_vocab(with_added_tokens=True)
    return encoder.vocabulary() if isinstance(encoder, PieceEncoder) else {}


def _rows(subject: Subject, vocabulary: Mapping[str, int]) -> Iterator[Point]:
    """The vocabulary against the rows of the embedding."""
    rows, largest = subject.config.vocab_size, max(vocabulary.values(), default=-1)
    yield judged(
        "tokenizer",
        f"{len(vocabulary):,} tokens with ids up to {largest:,}; the embedding has {rows:,} rows",
        holds=0 <= largest < rows,
    )


def _added(subject: Subject, vocabulary: Mapping[str, int]) -> Iterator[Point]:
    """Ids of added tokens in tokenizer_config.json against the vocabulary."""
    listed = mapping(subject.json_file(_SETTINGS).get("added_tokens_decoder"))
    texts = {number: mapping(entry).get("content") for number, entry in listed.items()}
    wrong = [
        f"{quoted(text)} is {number}, not {quoted(vocabulary.get(text))}"
        for number, text in texts.items()
        if isinstance(text, str) and str(vocabulary.get(text)) != number
    ]
    if wrong:
        yield contradicted(f"{_SETTINGS} added_tokens_decoder", "; ".join(wrong[:_LISTED]))
    elif texts:
        yield shown(
            f"{_SETTINGS} added_tokens_decoder",
            f"{len(texts)} added tokens have the ids of the vocabulary",
        )


def _named(subject: Subject, tokenizer: Tokenizer) -> Iterator[Point]:
    """The named special tokens against the ids in config.json and generation_config.json."""
    if not tokenizer.special_tokens:
        yield not_shown("tokenizer", "no special tokens are named")
        return
    lacking = [
        f"{name} {quoted(text)}"
        for name, text in tokenizer.special_tokens.items()
        if not known_tokens(tokenizer, text)
    ]
    named = ", ".join(f"{name} {quoted(text)}" for name, text in _few(tokenizer.special_tokens))
    yield judged(
        "special tokens",
        f"not in the vocabulary: {', '.join(lacking[:_LISTED])}" if lacking else named,
        holds=not lacking,
    )
    files = (subject.config.raw, subject.json_file("generation_config.json"))
    for key in _IDS:
        text = tokenizer.special_tokens.get(key.removesuffix("_id"))
        number = next(iter(known_tokens(tokenizer, text)), None) if text else None
        stated = [each for file in files for each in _whole(file.get(key))]
        if number is not None and stated:
            yield judged(
                key,
                f"{key.removesuffix('_id')} {quoted(text)} is {number}; stated "
                f"{'are' if len(set(stated)) > 1 else 'is'} {_joined(stated)}",
                holds=number in stated,
            )


def _template(subject: Subject, tokenizer: Tokenizer) -> Iterator[Point]:
    """Marks of the chat template against the vocabulary, and its end of a turn as a stop token."""
    if tokenizer.chat_template is None:
        yield not_shown("chat template", "there is none")
        return
    try:
        text = tokenizer.render_chat(_CHAT)
    except TokenizerError as error:
        yield contradicted("chat template", subject.message(error))
        return
    marks = list(dict.fromkeys(_MARK.findall(text)))
    unknown = [quoted(mark) for mark in marks if not known_tokens(tokenizer, mark)]
    yield judged(
        "chat template",
        f"writes {', '.join(unknown[:_LISTED])}, which the vocabulary doesn't have"
        if unknown
        else f"all {len(marks)} marks that it writes are tokens",
        holds=not unknown,
    )
    yield from _stop(subject, tokenizer, text)


def _stop(subject: Subject, tokenizer: Tokenizer, text: str) -> Iterator[Point]:
    _, answered, rest = text.partition(_WORD)
    if not answered:
        yield contradicted("chat template", "leaves out the assistant's turn")
        return
    mark = _MARK.match(rest.lstrip())
    eos = tokenizer.special_tokens.get("eos_token", "")
    end = mark[0] if mark else eos if eos and rest.lstrip().startswith(eos) else None
    if end is None:
        yield not_shown("chat template", "no token ends the assistant's turn")
        return
    try:
        stops = list(facts(subject.opened)[STOP_TOKENS])
    except InputError as error:
        yield contradicted("stop tokens", subject.message(error))
        return
    if subject.metadata:
        # llama.cpp stops at these by their text, whatever the metadata lists.
        stops += known_tokens(tokenizer, *END_OF_TURN)
    if not stops:
        yield not_shown("stop tokens", "none are stated")
        return
    number = next(iter(known_tokens(tokenizer, end)), None)
    yield judged(
        "stop tokens",
        f"the template ends an answer with {quoted(end)} ({number}); generation stops at "
        f"{_joined(stops)}",
        holds=number in stops,
    )


def _few(tokens: Mapping[str, str]) -> list[tuple[str, str]]:
    return list(tokens.items())[: _LISTED + 1]


def _whole(value: object) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, int) and not isinstance(each, bool)]


def _joined(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in sorted(set(numbers))[:8])
