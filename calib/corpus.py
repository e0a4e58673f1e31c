"""Text for calibration and evaluation: bundled corpora and the user's files."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from calib.records import Chat, Document, Fields, read_record
from calib.text_files import (
    MAX_CHARACTERS,
    Records,
    read_records,
    text_files,
    without_nested_nulls,
)
from phi3quant.errors import CorpusError, MissingExtraError, TokenizerError
from phi3quant.notices import notify
from phi3quant.source import locate
from phi3quant.source.content_parts import has_parts
from phi3quant.source.tokenizer import Message, Tokenizer, load_tokenizer

BUNDLED = ("general", "tiny")
"""Bundled corpora: ``general`` for any model, ``tiny`` in the made-up language of phi3-tiny."""

PARTS = ("calibration", "evaluation")
# Limit of the rendered text, relative to that of the text that is read.
_MOST_GROWTH = 4
_OPTIONS: Mapping[str, str] = {"calibration": "--calib-field", "evaluation": "--text-field"}


@dataclass(frozen=True)
class Corpus:
    """Documents in memory, with the facts for a manifest.

    Attributes:
        name: name and part of a bundled corpus, or the source of the text.
        documents: documents in order.
        digest: SHA-256 over all documents.
        notes: records and files that were skipped, one line each.
    """

    name: str
    documents: tuple[Document, ...]
    digest: str
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Name, hash and notes, for a manifest."""
        stated: dict[str, object] = {"text": self.name, "text_sha256": self.digest}
        return {**stated, "text_notes": list(self.notes)} if self.notes else stated


def load_corpus(source: str | Path, part: str, field: str | None = None) -> Corpus:
    """Load a bundled corpus or a user's text.

    Args:
        source: ``general`` or ``tiny``; a .txt, .md, .jsonl, .json or .parquet file or a folder
            of such files; or ``hf:NAME[:CONFIG[:SPLIT]]`` for a Hugging Face data set.
        part: part of a bundled corpus, ``calibration`` or ``evaluation``.
        field: name of the field with the text (or the list of chat messages) in each record; by
            default the first of ``text``, ``content``, ``messages`` and ``conversations`` that is
            present and not empty, or else ``instruction`` and ``output``, or ``prompt`` and
            ``completion``.

    Raises:
        CorpusError: the text is missing, empty, not UTF-8 or malformed.
        MissingExtraError: the library for .parquet or hf: isn't installed.
    """
    if part not in PARTS:
        raise ValueError(f"part is {part!r}; it must be one of {PARTS}")
    skipped: Counter[str] = Counter()
    documents = _bounded(_documents(source, part, Fields(field, _OPTIONS[part]), skipped))
    notes = tuple(f"{text} ({count})" if count > 1 else text for text, count in skipped.items())
    if not any(documents):
        raise CorpusError("; ".join([f"{source} holds no text", *notes]))
    notify(f"{source}: {note}" for note in notes)
    digest = hashlib.sha256()
    for document in documents:
        plain = document if isinstance(document, str) else document.plain()
        digest.update(json.dumps(plain, ensure_ascii=False).encode() + b"\n")
    name = f"{source}/{part}" if source in BUNDLED else str(source)
    return Corpus(name, documents, digest.hexdigest(), notes)


def suitable(tokenizer: Tokenizer) -> str:
    """Name of the bundled corpus for a model: ``tiny`` if it has phi3-tiny's vocabulary."""
    return "tiny" if tokenizer.digest == _bundled_digest() else "general"


@cache
def _bundled_digest() -> str:
    return load_tokenizer(locate.bundled_folder()).digest


def render(corpus: Corpus, tokenizer: Tokenizer) -> str:
    """All documents as one text, separated by blank lines; chats are rendered by the template.

    Raises:
        CorpusError: the template fails on a chat of the user; the message gives file and line.
        TokenizerError: the template fails on a bundled chat.
    """
    pieces: list[str] = []
    room = _MOST_GROWTH * MAX_CHARACTERS
    notes: dict[str, None] = {}
    for document in corpus.documents:
        if isinstance(document, str):
            piece = document.strip("\n")
        else:
            piece, note = _rendered(document, tokenizer)
            notes.update(dict.fromkeys(filter(None, [note])))
        room -= len(piece)
        if room < 0:
            raise CorpusError(
                f"the model's chat template turns {corpus.name} into more than "
                f"{_MOST_GROWTH * MAX_CHARACTERS:,} characters; give less text"
            )
        pieces.append(piece)
    notify(f"{corpus.name}: {note}" for note in notes)
    return "\n\n".join(pieces)


def _rendered(chat: Chat, tokenizer: Tokenizer) -> tuple[str, str | None]:
    """Text of a chat, and a note on what the template required."""

    def text(messages: Sequence[Message]) -> str:
        return tokenizer.render_chat(messages, tools=chat.tools, variables=chat.variables)

    note = None
    if has_parts(chat.messages) and not tokenizer.reads_parts(chat.tools):
        note = (
            "text in parts joined by line breaks, since the model's chat template takes only text"
        )
    try:
        return text(chat.messages), note
    except TokenizerError as error:
        if chat.place is not None:
            raise CorpusError(f"{chat.place}: {error}{_bare_turns(chat)}") from None
        # Some templates refuse system turns, and the bundled chats don't depend on them.
        turns = [message for message in chat.messages if message["role"] != "system"]
        if len(turns) == len(chat.messages):
            raise
        return text(turns), f"system turns left out, since {error}"


def _bare_turns(chat: Chat) -> str:
    """Addition to an error: turns without text, which many templates can't render."""
    bare = [str(i) for i, turn in enumerate(chat.messages, 1) if turn.get("content") is None]
    if not bare:
        return ""
    more = f" and {len(bare) - 3} more" if len(bare) > 3 else ""
    return f" (without content: turn {', '.join(bare[:3])}{more})"


def _bounded(documents: Iterator[Document]) -> tuple[Document, ...]:
    kept: list[Document] = []
    room = MAX_CHARACTERS
    for document in documents:
        kept.append(document[:room] if isinstance(document, str) else document)
        room -= max(1, _length(document))
        if room <= 0:
            break
    return tuple(kept)


def _length(document: Document) -> int:
    """Characters of a document; of a chat, with all keys of its turns and its tools."""
    return len(document if isinstance(document, str) else json.dumps(document.plain()))


def _documents(
    source: str | Path, part: str, fields: Fields, skipped: Counter[str]
) -> Iterator[Document]:
    bundled = source in BUNDLED
    for where, record in _records(source, part, fields, skipped):
        document = read_record(record, fields, where, skipped)
        if document is None:
            skipped["rows without text skipped"] += 1
        elif isinstance(document, Chat) and bundled:
            yield Chat(document.messages)
        else:
            yield document


def _records(source: str | Path, part: str, fields: Fields, skipped: Counter[str]) -> Records:
    if str(source).startswith("hf:"):
        yield from _hugging_face(str(source)[3:])
        return
    path = Path(source)
    if source in BUNDLED:
        path = Path(str(resources.files("calib") / "corpora" / str(source) / part))
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for names that are too long
        raise CorpusError(
            f"there is no text {path}; give a file, a folder, hf:DATASET, "
            f"or a bundled corpus ({', '.join(BUNDLED)})"
        )
    for file in text_files(path, skipped):
        yield from read_records(file, fields.columns)


def _hugging_face(spec: str) -> Records:
    try:
        import datasets  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError(f"the data set {spec}", "datasets") from None
    name, config, split = [*spec.split(":"), "", ""][:3]
    try:
        records = datasets.load_dataset(
            name, config or None, split=split or "train", streaming=True
        )
        for number, record in enumerate(records, start=1):
            yield f"hf:{spec}, row {number}", without_nested_nulls(record)
    except Exception as error:  # noqa: BLE001 - the library raises its HTTP library's kinds too
        raise CorpusError(f"the data set {spec} can't be read: {error}") from None
