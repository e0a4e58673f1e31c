"""File format of a baseline: a JSON header and arrays, with sizes that are checked.

    bytes       content
    8           magic
    4           version of the schema, little-endian like everything that follows
    8           length of the header
    (length)    header: UTF-8 JSON, whose key "arrays" lists name, dtype, shape and stored bytes
    (stored)    the arrays in that order: all first bytes of the elements, then all second bytes,
                and so on, compressed by zlib
    32          SHA-256 of everything before

Nothing is unpickled, and every size is checked against the size of the file before it is used.
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
# Limit on the compression ratio; deflate's is 1032.
_MOST_INFLATION = 1040


def pack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Pack a header and arrays into the content of a file.

    Args:
        header: JSON values without the key ``arrays``.
        arrays: arrays of unsigned integers or FP32, by name.
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
    """Unpack a header and arrays from the content of a file.

    Args:
        content: content of the file.
        where: name of the file, for messages.

    Raises:
        NotComparableError: it is not a baseline, or has another schema version, or is damaged.
    """
    if len(content) < _PREFIX.size or not content.startswith(_MAGIC):
        raise NotComparableError(f"{where} is not a baseline of phi3quant (bad magic bytes)")
    _, version, length = _PREFIX.unpack_from(content)
    if version != SCHEMA_VERSION:
        raise NotComparableError(
            f"{where} has schema version {version}, and this phi3quant reads {SCHEMA_VERSION}; "
            "make a new one with phi3quant baseline create"
        )
    body = content[:-_DIGEST_BYTES]
    if hashlib.sha256(body).digest() != content[-_DIGEST_BYTES:]:
        raise NotComparableError(
            f"{where} is truncated or damaged (its checksum doesn't match); "
            "restore the file from version control"
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
    """Entry of an array in the header, with checked numbers."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.name, self.dtype = str(entry["name"]), np.dtype(entry["dtype"])
        self.shape, self.nbytes = tuple(entry["shape"]), entry["bytes"]
        numbers = (*self.shape, self.nbytes)
        if entry["dtype"] not in _DTYPES or any(type(n) is not int or n < 0 for n in numbers):
            raise ValueError(f"array {self.name} is announced as {dict(entry)}")

    def inflate(self, stored: bytes, where: str) -> np.ndarray:
        size = math.prod(self.shape) * self.dtype.itemsize
        if size > _MOST_INFLATION * (len(stored) + 1):
            raise NotComparableError(f"array {self.name} of {where} claims {size} bytes, too many")
        stream = zlib.decompressobj()
        try:
            planes = stream.decompress(stored, size + 1)
        except zlib.error as error:
            raise NotComparableError(f"array {self.name} of {where}: {error}") from None
        if len(planes) != size or not stream.eof:
            raise NotComparableError(f"array {self.name} of {where} isn't of the size it claims")
        by_byte = np.frombuffer(planes, np.uint8).reshape(self.dtype.itemsize, -1)
        array: np.ndarray = np.ascontiguousarray(by_byte.T).view(self.dtype)
        return array.reshape(self.shape)


def _little(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))


def _planes(array: np.ndarray) -> bytes:
    """All first bytes of the elements, then all second bytes, and so on; similar bytes adjoin."""
    raw = _little(array).view(np.uint8)
    return raw.reshape(-1, array.dtype.itemsize).T.tobytes()
