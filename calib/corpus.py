"""Text for calibration and evaluation: bundled corpora and the user's files."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from calib.records import BESIDE, Chat, Document, Fields, read_record
from calib.text_files import MAX_CHARACTERS, Records, read_records, text_files
from phi3quant.errors import CorpusError, MissingExtraError, TokenizerError
from phi3quant.notices import notify
from phi3quant.source import locate
from phi3quant.source.tokenizer import Tokenizer, load_tokenizer

BUNDLED = ("general", "tiny")
"""Bundled corpora: ``general`` for any model, ``tiny`` in the made-up language of phi3-tiny."""

PARTS = ("calibration", "evaluation")
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
        source: ``general`` or ``tiny``; a .txt, .md, .jsonl or .parquet file or a folder of such
            files; or ``hf:NAME[:CONFIG[:SPLIT]]`` for a Hugging Face data set.
        part: part of a bundled corpus, ``calibration`` or ``evaluation``.
        field: name of the field with the text (or the list of chat messages) in each record; by
            default the first of ``text``, ``content``, ``messages`` and ``conversations`` that is
            present and not empty.

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
    return "\n\n".join(
        document.strip("\n") if isinstance(document, str) else _rendered(document, tokenizer)
        for document in corpus.documents
    )


def _rendered(chat: Chat, tokenizer: Tokenizer) -> str:
    try:
        return tokenizer.render_chat(chat.messages, tools=chat.tools)
    except TokenizerError as error:
        if chat.place is not None:
            raise CorpusError(f"{chat.place}: {error}") from None
        # Some templates refuse system turns, and the bundled chats don't depend on them.
        turns = [message for message in chat.messages if message["role"] != "system"]
        if len(turns) == len(chat.messages):
            raise
        return tokenizer.render_chat(turns)


def _bounded(documents: Iterator[Document]) -> tuple[Document, ...]:
    kept: list[Document] = []
    room = MAX_CHARACTERS
    for document in documents:
        kept.append(document[:room] if isinstance(document, str) else document)
        room -= len(document) if isinstance(document, str) else _length(document)
        if room <= 0:
            break
    return tuple(kept)


def _length(chat: Chat) -> int:
    contents = (message["content"] for message in chat.messages)
    return sum(len(text) if isinstance(text, str) else len(json.dumps(text)) for text in contents)


def _documents(
    source: str | Path, part: str, fields: Fields, skipped: Counter[str]
) -> Iterator[Document]:
    bundled = source in BUNDLED
    for where, record in _records(source, part, fields, skipped):
        document = read_record(record, fields, where)
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
        yield from read_records(file, (*fields.names, *BESIDE))


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
            yield f"hf:{spec}, row {number}", record
    except Exception as error:  # noqa: BLE001 - the library raises its HTTP library's kinds too
        raise CorpusError(f"the data set {spec} can't be read: {error}") from None
