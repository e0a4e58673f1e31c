"""The container of a baseline: a JSON header and arrays, in one file that can't lie about its size.

    bytes       content
    8           magic
    4           version of the schema, little-endian like all that follows
    8           length of the header
    (so many)   header: UTF-8 JSON, whose key "arrays" lists name, dtype, shape and stored bytes
    (so many)   the arrays in that order: all first bytes of the elements, then all second bytes,
                and so on, deflated by zlib
    32          SHA-256 of everything before

Nothing is unpickled, and no size is believed before it is checked against the file's.
"""

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from phi3quant.disk.untrusted_json import parse_json
from phi3quant.errors import NotComparableError

SCHEMA_VERSION = 1
_MAGIC = b"\x89P3Q\r\n\x1a\n"
_PREFIX = struct.Struct("<8sIQ")
_DIGEST_BYTES = 32
_DTYPES = ("<u1", "<u2", "<u4", "<f4")
# Deflate turns one byte into no more than 1032.
_MOST_INFLATION = 1040


def pack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a file that holds these.

    Args:
        header: plain values; ``arrays`` is no key of it.
        arrays: of unsigned integers or FP32, by name.
    """
    stored = {name: zlib.compress(_planes(array), 9) for name, array in arrays.items()}
    listing = [
        {
            "name": name,
            "dtype": _little(array).dtype.str.replace("|", "<"),
            "shape": list(array.shape),
            "bytes": len(stored[name]),
        }
        for name, array in arrays.items()
    ]
    text = json.dumps({**header, "arrays": listing}, ensure_ascii=False, allow_nan=False).encode()
    body = b"".join((_PREFIX.pack(_MAGIC, SCHEMA_VERSION, len(text)), text, *stored.values()))
    return body + hashlib.sha256(body).digest()


def unpack(content: bytes, where: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a file's content.

    Args:
        content: of the file.
        where: its name, for messages.

    Raises:
        NotComparableError: it is no baseline, of another schema version, truncated or damaged.
    """
    if len(content) < _PREFIX.size or not content.startswith(_MAGIC):
        raise NotComparableError(f"{where} is not a baseline of phi3quant")
    _, version, length = _PREFIX.unpack_from(content)
    if version != SCHEMA_VERSION:
        raise NotComparableError(
            f"{where} has schema version {version}, and this phi3quant reads {SCHEMA_VERSION}; "
            "make it anew with phi3quant baseline create"
        )
    body = content[:-_DIGEST_BYTES]
    if hashlib.sha256(body).digest() != content[-_DIGEST_BYTES:]:
        raise NotComparableError(
            f"{where} is truncated or damaged (its checksum doesn't hold); "
            "get it again from where it is kept"
        )
    start = _PREFIX.size
    if length > len(body) - start:
        raise NotComparableError(f"{where} claims a header of {length} bytes, more than it has")
    text = body[start : start + length]
    name = f"the header of {where}"
    header = parse_json(text, dict[str, Any], where=name, raises=NotComparableError)
    try:
        listing = [_Entry(entry) for entry in header.pop("arrays")]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise NotComparableError(f"the header of {where} can't be read: {error!r}") from None
    start += length
    if sum(entry.nbytes for entry in listing) != len(body) - start:
        raise NotComparableError(f"the arrays of {where} don't add up to its size")
    arrays = {}
    for entry in listing:
        arrays[entry.name] = entry.inflate(body[start : start + entry.nbytes], where)
        start += entry.nbytes
    return header, arrays


class _Entry:
    """An array as the header announces it, its numbers checked."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.name, self.dtype = str(entry["name"]), np.dtype(entry["dtype"])
        self.shape, self.nbytes = tuple(entry["shape"]), entry["bytes"]
        numbers = (*self.shape, self.nbytes)
        if entry["dtype"] not in _DTYPES or any(type(n) is not int or n < 0 for n in numbers):
            raise ValueError(f"array {self.name} is announced as {dict(entry)}")

    def inflate(self, stored: bytes, where: str) -> np.ndarray:
        size = math.prod(self.shape) * self.dtype.itemsize
        if size > _MOST_INFLATION * (len(stored) + 1):
            raise NotComparableError(f"array {self.name} of {where} claims {size} bytes")
        stream = zlib.decompressobj()
        try:
            planes = stream.decompress(stored, size + 1)
        except zlib.error as error:
            raise NotComparableError(f"array {self.name} of {where}: {error}") from None
        if len(planes) != size or not stream.eof:
            raise NotComparableError(f"array {self.name} of {where} isn't of the size it claims")
        bytes_first = np.frombuffer(planes, np.uint8).reshape(self.dtype.itemsize, -1)
        array: np.ndarray = np.ascontiguousarray(bytes_first.T).view(self.dtype)
        return array.reshape(self.shape)


def _little(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))


def _planes(array: np.ndarray) -> bytes:
    """First bytes of all elements, then second bytes: what is alike lies together."""
    raw = _little(array).view(np.uint8)
    return raw.reshape(-1, array.dtype.itemsize).T.tobytes()
