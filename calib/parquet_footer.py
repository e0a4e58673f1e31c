"""Sizes of the columns of a Parquet file, from its footer.

pyarrow has them too, but its accessor ends the process if the statistics of a column contradict one
another. The footer is a struct in Thrift's compact protocol, described in parquet.thrift of
apache/parquet-format.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TAIL = 8  # length of the footer, and the magic bytes
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)
# Identifiers of fields in parquet.thrift.
_ROW_GROUPS, _COLUMNS, _META_DATA = 4, 1, 3
_PATH, _LARGE, _SMALL = 3, 6, 7


@dataclass(frozen=True)
class ColumnChunk:
    """Values of a column in a row group.

    Attributes:
        column: name of the column at the top level of the schema.
        compressed: size in the file, in bytes.
        uncompressed: size after decompression, in bytes.
    """

    column: str
    compressed: int
    uncompressed: int


def column_chunks(file: Path) -> Sequence[Sequence[ColumnChunk]]:
    """Chunks of each row group.

    Raises:
        ValueError: the footer is malformed.
    """
    with file.open("rb") as opened:
        size = opened.seek(0, 2)
        opened.seek(max(0, size - _TAIL))
        length = int.from_bytes(opened.read(4), "little")
        if length + _TAIL > size:
            raise ValueError("its footer is longer than the file")
        opened.seek(size - _TAIL - length)
        footer = opened.read(length)
    try:
        described = _Reader(footer).struct()
        return [
            [_chunk(column[_META_DATA]) for column in group[_COLUMNS]]
            for group in described[_ROW_GROUPS]
        ]
    except (IndexError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("its footer is cut short or malformed") from None


def _chunk(described: Mapping[int, Any]) -> ColumnChunk:
    name = described[_PATH][0].decode("utf-8", "replace")
    return ColumnChunk(name, int(described[_SMALL]), int(described[_LARGE]))


class _Reader:
    """Thrift's compact protocol; structs become dictionaries by the identifiers of their fields."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._readers: Mapping[int, Callable[[], Any]] = {
            _TRUE: lambda: True,
            _FALSE: lambda: False,
            _BYTE: self._byte,
            **dict.fromkeys(_INTEGERS, self._integer),
            _DOUBLE: lambda: self._bytes(8),
            _BINARY: lambda: self._bytes(self._unsigned()),
            **dict.fromkeys((_LIST, _SET), self._list),
            _STRUCT: self.struct,
        }

    def struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != _STOP:
            number = number + (head >> 4) if head >> 4 else self._integer()
            fields[number] = self._value(head & 15)
        return fields

    def _value(self, kind: int) -> Any:
        read = self._readers.get(kind)
        if read is None:
            raise ValueError(f"its footer has a value of type {kind}")
        return read()

    def _list(self) -> list[Any]:
        head = self._byte()
        count = head >> 4 if head >> 4 != 15 else self._unsigned()
        kind = head & 15
        if count > len(self._data):
            raise ValueError("its footer has a list that is longer than the footer")
        # A boolean in a list takes a byte, unlike one in a struct.
        kind = _BYTE if kind in (_TRUE, _FALSE) else kind
        return [self._value(kind) for _ in range(count)]

    def _integer(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("its footer has a number that is too long")

    def _byte(self) -> int:
        self._position += 1
        return self._data[self._position - 1]

    def _bytes(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise ValueError("its footer ends too early")
        piece = self._data[self._position : end]
        self._position = end
        return piece
