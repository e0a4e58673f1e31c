"""Text files: search for files in folders, and bounded readers of their records."""

import codecs
import itertools
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from calib.json_array import array_elements
from calib.parquet_footer import ColumnChunk, column_chunks
from phi3quant.disk.untrusted_json import parse_json
from phi3quant.errors import CorpusError, MissingExtraError

MAX_CHARACTERS = 32_000_000
"""Limit of the text that is read, in characters: millions of tokens, but bounded memory for a
huge data set."""

_SEPARATOR = "<<<>>>"
_CHUNK = 1 << 20
_MAX_LINE = 2 * MAX_CHARACTERS
# With dictionary encoding, every row may repeat the same value, so that a batch can need as many
# bytes as its number of rows times the size of the column's chunk.
_BATCH_ROWS, _BATCH_BYTES = 256, 64 << 20
# A page may be as large as its column's chunk. Text never compresses 100-fold.
_MAX_EXPANDED, _MAX_RATIO = 32 << 20, 100

Records = Iterator[tuple[str, Any]]
"""Records, each with its place (file and line or row) for error messages."""

Columns = Callable[[Sequence[str]], Sequence[str]]
"""Choice of the columns that are read, from those that a file has."""


def text_files(path: Path, notes: Counter[str]) -> Sequence[Path]:
    """Files to read: ``path`` itself or, sorted, all files in a folder and its subfolders.

    Links to folders are not followed. A .json file may be anything, so it is read only if it is
    ``path`` itself.

    Args:
        path: an existing file or folder.
        notes: receives a count for every skipped file.

    Raises:
        CorpusError: there are no text files, or a folder can't be read.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        if path.suffix not in READERS:
            raise CorpusError(f"{path} has an unknown type; use one of {', '.join(READERS)}")
        return [path]
    if not stat.S_ISDIR(mode):
        raise CorpusError(f"the text {path} is neither a regular file nor a folder")
    files = []
    for file in sorted(_walk(path)):
        if file.suffix == _ARRAYS:
            notes[f"{_ARRAYS} files in the folder skipped; give such a file by itself"] += 1
        if file.suffix not in READERS or file.suffix == _ARRAYS:
            continue
        if file.is_file():
            files.append(file)
        elif not file.is_dir():
            notes[f"{file} skipped: not a regular file"] += 1
    if not files:
        raise CorpusError(f"{path} holds no {', '.join(READERS)} files")
    return files


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise CorpusError(f"{error.filename} can't be read: {error.strerror}")

    for root, _folders, names in os.walk(folder, onerror=fail):
        yield from (Path(root, name) for name in names)


def read_records(file: Path, columns: Columns) -> Records:
    """Records of a file; in plain text, each document is a record.

    Args:
        file: a file with a suffix in READERS.
        columns: choice of the fields in files that are stored by column.

    Raises:
        CorpusError: the file can't be read.
        MissingExtraError: the file requires a library that isn't installed.
    """
    try:
        yield from READERS[file.suffix](file, columns)
    except OSError as error:
        raise CorpusError(f"{file} can't be read: {error.strerror or error}") from None


def _read_text(file: Path, _columns: Columns) -> Records:
    for document in _decoded(file).split(f"\n{_SEPARATOR}\n"):
        yield str(file), document


def _decoded(file: Path) -> str:
    r"""Text of a file, at most MAX_CHARACTERS characters.

    A byte order mark is left out, and lines end with ``\n``.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    pieces: list[str] = []
    count = position = 0
    with file.open("rb") as opened:
        while count < MAX_CHARACTERS:
            data = opened.read(_CHUNK)
            waiting = len(decoder.getstate()[0])
            try:
                pieces.append(decoder.decode(data, final=not data))
            except UnicodeDecodeError as error:
                raise CorpusError(
                    f"{file} is not UTF-8 (byte {position - waiting + error.start}: "
                    f"{error.reason}); convert it first"
                ) from None
            position += len(data)
            count += len(pieces[-1])
            if not data:
                break
    return "".join(pieces)[:MAX_CHARACTERS].replace("\r\n", "\n")


def _read_jsonl(file: Path, _columns: Columns) -> Records:
    number = 0
    try:
        with file.open(encoding="utf-8-sig") as lines:
            while line := lines.readline(_MAX_LINE + 1):
                number += 1
                place = f"{file}, line {number}"
                if len(line) > _MAX_LINE:
                    raise CorpusError(f"{place} has more than {_MAX_LINE:,} characters")
                if line.strip():
                    yield place, parse_json(line, where=place, raises=CorpusError, mend_halves=True)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{file} is not UTF-8 (after line {number}: {error.reason}); convert it first"
        ) from None


def _read_json(file: Path, columns: Columns) -> Records:
    """Records of a JSON array, or of JSON Lines in a file of that name."""
    try:
        with file.open(encoding="utf-8-sig") as opened:
            start = opened.read(_CHUNK).lstrip()[:1]
            if start != "[":
                yield from _read_jsonl(file, columns)
                return
            opened.seek(0)
            for number, text in enumerate(array_elements(opened, _MAX_LINE, str(file)), start=1):
                place = f"{file}, record {number}"
                yield place, parse_json(text, where=place, raises=CorpusError, mend_halves=True)
    except UnicodeDecodeError as error:
        raise CorpusError(f"{file} is not UTF-8 ({error.reason}); convert it first") from None


def _read_parquet(file: Path, columns: Columns) -> Records:
    try:
        from pyarrow import parquet  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError(f"reading {file}", "data") from None
    rows = _rows(file, columns, parquet.ParquetFile)
    for number in itertools.count(1):
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001 - pyarrow raises many undocumented types
            reason = str(error).split("\n")[0][:300] or type(error).__name__
            raise CorpusError(f"{file} can't be read as parquet (row {number}: {reason})") from None
        yield f"{file}, row {number}", row


def _rows(file: Path, columns: Columns, open_file: Callable[..., Any]) -> Iterator[Any]:
    # Without pre-buffering, pages are read one at a time instead of whole chunks.
    opened = open_file(file, pre_buffer=False, buffer_size=_CHUNK)
    present = columns(opened.schema_arrow.names)
    if not present:
        # read_record then raises an error that lists the existing fields.
        yield dict.fromkeys(opened.schema_arrow.names)
        return
    for group, chunks in enumerate(column_chunks(file)):
        largest = _largest_chunk(chunks, present)
        size = min(_BATCH_ROWS, max(1, _BATCH_BYTES // max(1, largest)))
        for batch in opened.iter_batches(size, row_groups=[group], columns=present):
            for index in range(batch.num_rows):
                yield without_nested_nulls(batch.slice(index, 1).to_pylist()[0])


def without_nested_nulls(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record whose nested objects have no keys with null.

    Files that are stored by column give every object all keys that any row has.
    """
    return {name: _without_nulls(value) for name, value in record.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _largest_chunk(chunks: Sequence[ColumnChunk], columns: Sequence[str]) -> int:
    """Decompressed size, in bytes, of the largest column chunk of a row group."""
    sizes = [0]
    for chunk in chunks:
        name, small, large = chunk.column, chunk.compressed, chunk.uncompressed
        if name in columns and large > _MAX_EXPANDED and large > _MAX_RATIO * small:
            raise ValueError(
                f"the column {name} expands from {small:,} bytes to {large:,}, more than "
                f"{_MAX_RATIO}-fold; if that is intended, write the file without compression"
            )
        if name in columns:
            sizes.append(large)
    return max(sizes)


_ARRAYS = ".json"
READERS: Mapping[str, Callable[[Path, Columns], Records]] = {
    ".txt": _read_text,
    ".md": _read_text,
    ".jsonl": _read_jsonl,
    _ARRAYS: _read_json,
    ".parquet": _read_parquet,
}
"""Readers by file suffix."""
