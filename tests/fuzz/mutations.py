"""Ways to spoil a file, by what it holds. All of them are decided by the random generator given."""

import copy
import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from onnx import ModelProto

from converters.gguf.file import read_gguf

Spoil = Callable[[Random, Path], None]
"""Changes a valid file in place."""

_NUMBERS = [
    0,
    -1,
    1,
    255,
    65536,
    2**31 - 1,
    2**32,
    2**63 - 1,
    2**64 - 1,
    10**30,
    1e-320,
    1e308,
    0.5,
]
_TEXTS = [
    "",
    "x",
    "4",
    "../x",
    "/etc/passwd",
    "a\0b",
    "\u202e",
    "x" * 5000,
    "\x1b[31m",
    "[/b]",
    "%s",
]
_VALUES: list[Any] = [None, True, False, [], {}, *_NUMBERS, *_TEXTS]
_RAW = [
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 3000 + "1" + "}" * 3000,
    "9" * 5000,
    "1e400",
    "NaN",
]
_RAW += ['"\\ud800"', "-Infinity", "", "nonsense"]
_MARK = "put it here"


def spoil_bytes(random: Random, path: Path) -> None:
    """Flip, cut, insert or repeat bytes, mostly near the beginning, where headers are."""
    data = bytearray(path.read_bytes())
    for _ in range(random.choice((1, 1, 2, 8))):
        at = random.randrange(min(len(data), random.choice((64, 4096, 1 << 30))) or 1)
        size = random.choice((1, 4, 8, 64))
        kind = random.randrange(6)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << random.randrange(8)
        elif kind == 1:
            data[at : at + 8] = struct.pack("<Q", random.choice(_NUMBERS[:9]) % 2**64)
        elif kind == 2:
            del data[at : at + size]
        elif kind == 3:
            data[at:at] = random.randbytes(size)
        elif kind == 4:
            del data[at:]
        else:
            data[at : at + size] = random.randbytes(size)
    path.write_bytes(data)


def spoil_json(random: Random, path: Path) -> None:
    """Replace, delete or add values, or write what isn't JSON at some place of it."""
    if random.random() < 0.15:
        spoil_bytes(random, path)
        return
    path.write_bytes(_spoiled(random, json.loads(path.read_bytes())))


def spoil_lines(random: Random, path: Path) -> None:
    """Spoil some line of JSON, or its bytes."""
    lines = path.read_bytes().split(b"\n")
    at = random.randrange(len(lines))
    lines[at] = _spoiled(random, json.loads(lines[at] or b"null"))
    path.write_bytes(random.choice((b"", b"", b"\xef\xbb\xbf")) + b"\n".join(lines))
    if random.random() < 0.2:
        spoil_bytes(random, path)


def spoil_safetensors(random: Random, path: Path) -> None:
    """Spoil the header, or any bytes."""
    data = path.read_bytes()
    length = struct.unpack_from("<Q", data)[0]
    if random.random() < 0.4:
        spoil_bytes(random, path)
        return
    header = _spoiled(random, json.loads(data[8 : 8 + length]))
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])


def spoil_record(random: Random, path: Path) -> None:
    """Spoil a file of an unfinished run: a block, or the record of what it was started with."""
    (spoil_json if path.suffix == ".json" else spoil_safetensors)(random, path)


def spoil_baseline(random: Random, path: Path) -> None:
    """Spoil the header of a baseline under a checksum that holds, or any bytes."""
    if random.random() < 0.2:
        spoil_bytes(random, path)
        return
    body = path.read_bytes()[:-32]
    start = struct.calcsize("<8sIQ")
    magic, version, length = struct.unpack_from("<8sIQ", body)
    header = _spoiled(random, json.loads(body[start : start + length]))
    rest = body[start + length :]
    body = struct.pack("<8sIQ", magic, version, len(header)) + header + rest
    path.write_bytes(body + hashlib.sha256(body).digest())


def spoil_gguf(random: Random, path: Path) -> None:
    """Put a value of another type, or another value, in the place of a metadata entry's."""
    if random.random() < 0.4:
        spoil_bytes(random, path)
        return
    data = path.read_bytes()
    key, (start, stop) = random.choice(list(read_gguf(path).spans.items()))
    entry = _named(key, random.choice(_GGUF_VALUES)(random))
    # One more entry takes up the slack, so that the tensors still begin at a multiple of 32 bytes.
    slack = -(len(entry) + len(_named("z", _text(""))) - (stop - start)) % 32
    entry += _named("z", _text("x" * slack))
    count = struct.unpack_from("<Q", data, 16)[0] + 1
    path.write_bytes(data[:16] + struct.pack("<Q", count) + data[24:start] + entry + data[stop:])


def spoil_onnx(random: Random, path: Path) -> None:
    """Change fields of messages somewhere in the graph."""
    if random.random() < 0.3:
        spoil_bytes(random, path)
        return
    model = ModelProto()
    model.ParseFromString(path.read_bytes())
    for _ in range(random.choice((1, 1, 3))):
        _spoil_message(random, model)
    path.write_bytes(model.SerializeToString())


def _spoiled(random: Random, value: Any) -> bytes:
    """JSON of a value in which something was changed."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    for _ in range(random.choice((1, 1, 1, 3))):
        if not places:
            value = random.choice(_VALUES)
            break
        holder, key = random.choice(places)
        kind = random.randrange(4)
        try:
            if kind == 0:
                del holder[key]
            elif kind == 1:
                holder[key] = _near(random, holder[key])
            elif kind == 2:
                holder[key] = _MARK
            else:
                holder[key] = random.choice(_VALUES)
        except (IndexError, KeyError):
            continue
    text = json.dumps(value, ensure_ascii=random.random() < 0.5)
    text = text.replace(json.dumps(_MARK), random.choice(_RAW))
    encoding = random.choice(("utf-8",) * 8 + ("utf-16", "utf-8-sig"))
    return text.encode(encoding, "surrogatepass")


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a value with each of its keys."""
    keys = (
        list(value)
        if isinstance(value, dict)
        else range(len(value))
        if isinstance(value, list)
        else []
    )
    found = [(value, key) for key in keys]
    for key in keys:
        found += _places(value[key])
    return found


def _near(random: Random, value: Any) -> Any:
    """A value that is almost right."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return random.choice((value + 1, -value, value * 10**6, float(value), str(value), [value]))
    if isinstance(value, float):
        return random.choice((-value, value * 1e300, str(value), [value]))
    if isinstance(value, str):
        return random.choice((value + "x", value[:-1], [value], {"content": value}, value * 50))
    if isinstance(value, list):
        return random.choice((value[:-1], value + value[:1], {}, [value], value[::-1]))
    return random.choice(([value], list(value), {}, None))


def _named(key: str, value: bytes) -> bytes:
    return struct.pack("<Q", len(key.encode())) + key.encode() + value


def _text(text: str) -> bytes:
    return struct.pack("<IQ", 8, len(text.encode())) + text.encode()


def _string(random: Random) -> bytes:
    return _text(random.choice(_TEXTS))


def _number(random: Random) -> bytes:
    return struct.pack("<IQ", 10, random.choice(_NUMBERS[:9]) % 2**64)


def _real(random: Random) -> bytes:
    return struct.pack("<If", 6, random.choice((0.0, -1.0, 1e30, float("nan"), float("inf"))))


def _array(random: Random) -> bytes:
    count = random.choice((0, 1, 300))
    return struct.pack("<IIQ", 9, 4, count) + struct.pack("<I", random.randrange(400)) * count


_GGUF_VALUES = (_string, _number, _real, _array)

_PROTO_VALUES: dict[int, tuple[Any, ...]] = {
    FieldDescriptor.CPPTYPE_INT32: (-1, 0, 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-1, 0, 3, 2**40, 2**62),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_FLOAT: (0.0, -1.0, float("nan")),
    FieldDescriptor.CPPTYPE_ENUM: (0, 1, 7, 10, 99),
    FieldDescriptor.CPPTYPE_STRING: (
        "",
        "nope",
        "../x",
        "/etc/passwd",
        "x" * 5000,
        "-1",
        "9" * 400,
    ),
}


def _spoil_message(random: Random, message: Any) -> None:
    """Walk down at random, then change, drop or repeat a field."""
    while True:
        fields = message.ListFields()
        if not fields:
            return
        field, value = random.choice(fields)
        repeated = not isinstance(value, str | bytes) and hasattr(value, "__len__")
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE and random.random() < 0.85:
            message = random.choice(value) if repeated else value
            continue
        kind = random.randrange(3)
        choices = _PROTO_VALUES.get(field.cpp_type, ())
        if kind == 0 or not choices or field.type == FieldDescriptor.TYPE_BYTES:
            if repeated and len(value):
                del value[random.randrange(len(value))]
            else:
                message.ClearField(field.name)
        elif repeated:
            value[random.randrange(len(value))] = random.choice(choices)
        else:
            try:
                setattr(message, field.name, random.choice(choices))
            except ValueError:
                # Not every number is one of the enumeration's.
                message.ClearField(field.name)
        return
