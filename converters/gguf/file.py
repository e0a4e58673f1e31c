"""Header of a GGUF file, read with every count checked against the size of the file.

The reader of the gguf library trusts all counts, so that a few flipped bytes keep it busy forever.
Files come from anywhere, hence a reader that checks them.
"""

import math
import mmap
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from phi3quant.disk.first_bytes import GGUF_MAGIC, lfs_hint
from phi3quant.errors import CheckpointError
from phi3quant.finite import count_not_finite
from phi3quant.quant.codecs.ggml_decoding import decode

_VERSIONS = (2, 3)
STRING, _ARRAY = 8, 9
_SCALARS: Mapping[int, str] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Format letters of ``struct`` by GGUF's value type."""
_MAX_DIMENSIONS, _MAX_NAME = 4, 512
_DEFAULT_ALIGNMENT = 32
_ALIGNMENTS = [1 << power for power in range(21)]
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True)
class GgufTensor:
    """Position and storage of a tensor.

    Attributes:
        file: part of the model that holds the tensor.
        type: block type.
        shape: dimensions, rows first.
        start, nbytes: position in the file.
    """

    file: Path
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True)
class GgufModel:
    """A GGUF file, or all parts of one.

    Attributes:
        files: parts in order.
        fields: metadata of the first file.
        tensors: tensors by name.
        spans: begin and end of each field's entry in the first file.
    """

    files: tuple[Path, ...]
    fields: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    spans: Mapping[str, tuple[int, int]]

    def load_bytes(self, name: str) -> np.ndarray:
        """Read a tensor's blocks: uint8, the last axis holding the bytes of a row.

        Raises:
            CheckpointError: the tensor is missing or cut short.
        """
        stored = self.tensors.get(name)
        if stored is None:
            raise CheckpointError(f"{self.files[0]} has no tensor {name}")
        raw = np.fromfile(stored.file, np.uint8, stored.nbytes, offset=stored.start)
        if len(raw) != stored.nbytes:
            raise CheckpointError(f"{stored.file} ends inside tensor {name}")
        return raw.reshape(*stored.shape[:-1], -1)

    def load(self, name: str) -> torch.Tensor:
        """Read a tensor's weights as FP32.

        Raises:
            CheckpointError: the tensor is missing, cut short, of an unsupported type or not finite.
        """
        raw, stored = self.load_bytes(name), self.tensors[name]
        try:
            weights = decode(raw.reshape(-1, raw.shape[-1]), stored.type)
        except NotImplementedError:
            raise CheckpointError(
                f"tensor {name} in {stored.file} is of type {stored.type.name}, which can't be read"
            ) from None
        tensor = torch.from_numpy(weights).view(stored.shape)
        if count_not_finite(tensor):
            raise CheckpointError(f"tensor {name} in {stored.file} holds NaN or infinity")
        return tensor


def read_gguf(path: Path) -> GgufModel:
    """Read a file's header, and those of the other parts if it is the first of several.

    Raises:
        CheckpointError: it is not a GGUF file, or its header contradicts itself or the file's size.
    """
    files = _parts(path)
    cursors = [_Header(file) for file in files]
    headers = [cursor.read() for cursor in cursors]
    spans = cursors[0].spans
    tensors: dict[str, GgufTensor] = {}
    for file, (_, entries) in zip(files, headers, strict=True):
        for name, stored in entries.items():
            if name in tensors:
                raise CheckpointError(f"{file}: tensor {name} occurs in another part too")
            tensors[name] = stored
    _check_parts(files, [fields for fields, _ in headers], len(tensors))
    return GgufModel(files, headers[0][0], tensors, spans)


def _check_parts(
    files: tuple[Path, ...], fields: Sequence[Mapping[str, Any]], tensor_count: int
) -> None:
    """Refuse parts whose metadata contradicts their names; llama.cpp would abort on them."""
    for number, (file, metadata) in enumerate(zip(files, fields, strict=True)):
        expected = {
            "split.no": number,
            "split.count": len(files),
            "split.tensors.count": tensor_count,
        }
        for key, value in expected.items():
            stated = metadata.get(key, value if len(files) == 1 else None)
            # Files that were never split may have a count of 0.
            if type(stated) is not int or (stated != value and (len(files), stated) != (1, 0)):
                raise CheckpointError(
                    f"{file} has {key} {str(stated)[:80]}, but the {len(files)} parts there "
                    f"require {value}"
                )


def _parts(path: Path) -> tuple[Path, ...]:
    match = _PART.fullmatch(path.name)
    if match is None:
        return (path,)
    count = int(match["count"])
    if not 0 < int(match["number"]) <= count:
        raise CheckpointError(
            f"{path} is named as part {match['number']} of {match['count']}, which can't be right; "
            "rename it, without the numbers if it is a whole file"
        )
    names = [f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    files = tuple(path.parent / name for name in names)
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{path} is one of {count} parts, and {file.name} is missing")
    return files


class _Header:
    """Cursor over the header of one file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._at = 0
        self.spans: dict[str, tuple[int, int]] = {}
        """Begin and end of each metadata key's entry; filled by ``read``."""
        try:
            with file.open("rb") as handle:
                self._data: Any = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} can't be read: {error}") from None

    def read(self) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
        """Read metadata and tensors."""
        self._check_preamble()
        tensor_count, field_count = self._scalar("Q"), self._scalar("Q")
        # A tensor's entry takes at least 24 bytes, a field's 13.
        self._check_count("tensors", tensor_count, 24)
        self._check_count("metadata entries", field_count, 13)
        fields: dict[str, Any] = {}
        for _ in range(field_count):
            start = self._at
            key = self._string()
            if key in fields:
                self._refuse(f"has the key {key!r} twice")
            fields[key] = self._value(self._scalar("I"))
            self.spans[key] = (start, self._at)
        entries = [self._tensor_entry() for _ in range(tensor_count)]
        alignment = fields.get("general.alignment", _DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment not in _ALIGNMENTS:
            self._refuse("has a general.alignment that is not a power of two")
        data = -(-self._at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, kind, shape, offset in entries:
            if name in tensors:
                self._refuse(f"has the tensor {name!r} twice")
            if offset % alignment:
                self._refuse(f"has tensor {name!r} at {offset}, not at a multiple of {alignment}")
            tensors[name] = self._placed(name, kind, shape, data + offset)
        self._refuse_overlaps(tensors)
        return fields, tensors

    def _check_preamble(self) -> None:
        if self._data[: len(GGUF_MAGIC)] != GGUF_MAGIC:
            hint = lfs_hint(self._file)
            if hint is not None:
                raise CheckpointError(hint)
            self._refuse("is not a GGUF file (bad magic bytes)")
        self._take(len(GGUF_MAGIC))
        version = self._scalar("I")
        if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
            self._refuse("is big-endian, which can't be read; use gguf-py's gguf_convert_endian")
        if version not in _VERSIONS:
            self._refuse(f"is of GGUF version {version}; supported are {_VERSIONS}")

    def _refuse_overlaps(self, tensors: Mapping[str, GgufTensor]) -> None:
        end = 0
        for name, stored in sorted(tensors.items(), key=lambda entry: entry[1].start):
            if stored.start < end:
                self._refuse(f"has tensor {name!r} overlapping with another one")
            end = stored.start + stored.nbytes

    def _tensor_entry(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._string()
        dimensions = self._scalar("I")
        if not name or len(name) > _MAX_NAME or not 0 < dimensions <= _MAX_DIMENSIONS:
            self._refuse(f"has a tensor {name[:40]!r} of {dimensions} dimensions")
        shape = tuple(self._scalar("Q") for _ in range(dimensions))[::-1]
        return name, self._scalar("I"), shape, self._scalar("Q")

    def _placed(self, name: str, kind: int, shape: tuple[int, ...], start: int) -> GgufTensor:
        try:
            known = GGMLQuantizationType(kind)
        except ValueError:
            self._refuse(f"has tensor {name} of an unknown type {kind}")
        block, size = GGML_QUANT_SIZES[known]
        if any(length < 1 for length in shape) or shape[-1] % block:
            self._refuse(f"has tensor {name} of shape {list(shape)}, which {known.name} can't hold")
        nbytes = math.prod(shape) // block * size
        if start + nbytes > len(self._data):
            self._refuse(
                f"ends at {len(self._data)} bytes, but tensor {name} would end at "
                f"{start + nbytes}; it was cut short"
            )
        return GgufTensor(self._file, known, shape, start, nbytes)

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            self._refuse(f"has a value of unknown type {kind}")
        return self._scalar(_SCALARS[kind])

    def _array(self) -> list[Any]:
        kind, count = self._scalar("I"), self._scalar("Q")
        if kind == STRING:
            self._check_count("strings", count, 8)
            return [self._string() for _ in range(count)]
        if kind not in _SCALARS:
            self._refuse(f"has an array of type {kind}")
        letter = _SCALARS[kind]
        self._check_count("numbers", count, struct.calcsize(letter))
        values = self._take(count * struct.calcsize(letter))
        return list(struct.unpack(f"<{count}{letter}", values))

    def _string(self) -> str:
        length = self._scalar("Q")
        self._check_count("characters", length, 1)
        return bytes(self._take(length)).decode("utf-8", errors="replace")

    def _scalar(self, letter: str) -> Any:
        return struct.unpack(f"<{letter}", self._take(struct.calcsize(letter)))[0]

    def _take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            self._refuse("ends inside its header; it was cut short")
        taken: bytes = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def _check_count(self, what: str, count: int, least: int) -> None:
        if count * least > len(self._data) - self._at:
            self._refuse(f"claims {count} {what}, more than it has bytes for")

    def _refuse(self, reason: str) -> Any:
        raise CheckpointError(f"{self._file} {reason}")
