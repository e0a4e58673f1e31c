"""Text to calibrate and to evaluate on: the bundled corpora, and a user's own files."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from phi3quant import hub
from phi3quant.errors import CorpusError, MissingExtraError
from phi3quant.tokenizer import Message, Tokenizer, load_tokenizer

BUNDLED = ("general", "tiny")
"""``general`` for any model; ``tiny`` is in the language that phi3-tiny was trained on."""

PARTS = ("calibration", "evaluation")
_SEPARATOR = "<<<>>>"
_DEFAULT_FIELDS = ("text", "content", "messages")
# Enough for millions of tokens; it bounds memory when somebody points at a huge data set.
_MAX_CHARACTERS = 32_000_000

Document = str | Sequence[Message]
"""Plain text, or the turns of a chat."""


@dataclass(frozen=True)
class Corpus:
    """Documents in memory, with what a manifest should say of them.

    Attributes:
        name: a bundled corpus' name and part, or where the text came from.
        documents: in order.
        digest: SHA-256 over all documents.
    """

    name: str
    documents: tuple[Document, ...]
    digest: str


def load_corpus(source: str | Path, part: str, field: str | None = None) -> Corpus:
    """Load a bundled corpus or a user's text.

    Args:
        source: ``general`` or ``tiny``; a .txt, .jsonl or .parquet file or a folder of such files;
            or ``hf:NAME[:CONFIG[:SPLIT]]`` for a Hugging Face data set.
        part: ``calibration`` or ``evaluation``, of a bundled corpus.
        field: the name of the text (or list of chat messages) in each record; by default
            ``text``, ``content`` or ``messages``, whichever a record has.

    Raises:
        CorpusError: the text is missing, empty, not UTF-8 or not of that form.
        MissingExtraError: .parquet or hf: without the library that reads it.
    """
    documents = _bounded(_documents(source, part, field))
    if not any(document for document in documents):
        raise CorpusError(f"{source} holds no text")
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps(document, ensure_ascii=False).encode() + b"\n")
    name = f"{source}/{part}" if source in BUNDLED else str(source)
    return Corpus(name, documents, digest.hexdigest())


def suitable(tokenizer: Tokenizer) -> str:
    """The bundled corpus for a model: phi3-tiny and what was made of it know only a small world."""
    own = load_tokenizer(hub.bundled_folder())
    return "tiny" if tokenizer.digest == own.digest else "general"


def render(corpus: Corpus, tokenizer: Tokenizer) -> str:
    """All documents as one text: chats by the model's template, a blank line between documents."""
    return "\n\n".join(
        document.strip("\n") if isinstance(document, str) else tokenizer.render_chat(document)
        for document in corpus.documents
    )


def _bounded(documents: Iterator[Document]) -> tuple[Document, ...]:
    kept: list[Document] = []
    room = _MAX_CHARACTERS
    for document in documents:
        if isinstance(document, str):
            kept.append(document[:room])
            room -= len(document)
        else:
            kept.append(document)
            room -= sum(len(message["content"]) for message in document)
        if room <= 0:
            break
    return tuple(kept)


def _documents(source: str | Path, part: str, field: str | None) -> Iterator[Document]:
    if source in BUNDLED:
        return _bundled(str(source), part)
    if str(source).startswith("hf:"):
        return _hugging_face(str(source)[3:], field)
    path = Path(source)
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.suffix in READERS]
        if not files:
            raise CorpusError(f"{path} holds no {', '.join(READERS)} files")
        return itertools.chain.from_iterable(_read(file, field) for file in files)
    if not path.is_file():
        raise CorpusError(
            f"there is no text {path}; give a file, a folder, hf:DATASET, "
            f"or a bundled corpus ({', '.join(BUNDLED)})"
        )
    return _read(path, field)


def _bundled(name: str, part: str) -> Iterator[Document]:
    if part not in PARTS:
        raise ValueError(f"part is {part!r}; it must be one of {PARTS}")
    root = Path(str(resources.files("calib") / "corpora" / name / part))
    for file in sorted(root.iterdir()):
        yield from READERS[file.suffix](file, None)


def _read(file: Path, field: str | None) -> Iterator[Document]:
    if file.suffix not in READERS:
        raise CorpusError(f"{file} is not one of {', '.join(READERS)}")
    return READERS[file.suffix](file, field)


def _read_text(file: Path, _field: str | None) -> Iterator[Document]:
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            text = opened.read(_MAX_CHARACTERS)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{file} is not UTF-8 (byte {error.start}: {error.reason}); convert it first"
        ) from None
    yield from text.split(f"\n{_SEPARATOR}\n")


def _read_jsonl(file: Path, field: str | None) -> Iterator[Document]:
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _document(json.loads(line), field, f"{file}, line {number}")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{file} is not UTF-8 (byte {error.start}); convert it first") from None
    except json.JSONDecodeError as error:
        raise CorpusError(f"{file}, line {number}: not JSON ({error})") from None


def _read_parquet(file: Path, field: str | None) -> Iterator[Document]:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError(f"reading {file}", "data") from None
    try:
        batches = parquet.ParquetFile(file).iter_batches(batch_size=256)
        for record in itertools.chain.from_iterable(batch.to_pylist() for batch in batches):
            yield _document(record, field, str(file))
    except (ArrowException, OSError) as error:
        raise CorpusError(f"{file} can't be read as parquet: {error}") from None


def _hugging_face(spec: str, field: str | None) -> Iterator[Document]:
    try:
        import datasets  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError(f"the data set {spec}", "datasets") from None
    name, config, split = [*spec.split(":"), "", ""][:3]
    try:
        records = datasets.load_dataset(
            name, config or None, split=split or "train", streaming=True
        )
        for record in records:
            yield _document(record, field, f"hf:{spec}")
    except CorpusError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises its HTTP library's kinds too
        raise CorpusError(f"the data set {spec} can't be read: {error}") from None


def _document(record: Any, field: str | None, where: str) -> Document:
    if isinstance(record, str) and field is None:
        return record
    if not isinstance(record, Mapping):
        raise CorpusError(f"{where}: a record must be an object with named fields")
    names = (field,) if field else _DEFAULT_FIELDS
    name = next((name for name in names if record.get(name) is not None), None)
    if name is None:
        raise CorpusError(
            f"{where}: no field {' or '.join(names)}; it has {', '.join(map(str, record))}. "
            "Name the right one with --calib-field"
        )
    value = record[name]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(_is_message(turn) for turn in value):
        return [{"role": turn["role"], "content": turn["content"]} for turn in value]
    raise CorpusError(
        f"{where}: the field {name} is neither text nor a list of messages with role and content"
    )


def _is_message(turn: Any) -> bool:
    return isinstance(turn, Mapping) and all(
        isinstance(turn.get(key), str) for key in ("role", "content")
    )


READERS: Mapping[str, Callable[[Path, str | None], Iterator[Document]]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
"""How to read a file, by its ending."""
