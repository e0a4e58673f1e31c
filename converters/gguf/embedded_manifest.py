"""Manifest inside a GGUF file: metadata keys with a prefix of this project, ignored by llama.cpp.

Metadata comes first in a file, but its manifest is complete only at the end. So the writer reserves
room, a string of spaces, and later overwrites part of it with the manifest's keys; nothing after
the reserved room moves.
"""

import hashlib
import struct
from collections.abc import Mapping

from gguf import GGUFWriter

from converters.format import MANIFEST_PREFIX
from converters.gguf.file import STRING, GgufModel
from converters.gguf.sizes import manifest_room
from phi3quant.model.config import Phi3Config

RESERVED = f"{MANIFEST_PREFIX}reserved"
TENSORS_SHA256 = f"{MANIFEST_PREFIX}tensors_sha256"
BLOCKS = f"{MANIFEST_PREFIX}blocks"
# Offset of the number of fields: after the magic, the version and the number of tensors.
_COUNT_AT = 16
_CHUNK = 1 << 22


def reserve(writer: GGUFWriter, config: Phi3Config) -> None:
    """Reserve room for a manifest in the metadata."""
    writer.add_string(RESERVED, " " * manifest_room(config))


def fill(model: GgufModel, strings: Mapping[str, str]) -> None:
    """Write a manifest's strings, and a hash of all tensors, into the reserved room.

    Errors of blocks are left out if they don't fit; the manifest of the folder has them. The file
    must be complete. It is changed in place, so nothing may read it at the same time.
    """
    file, replaced = model.files[0], [key for key in model.spans if key.startswith(MANIFEST_PREFIX)]
    start = min(model.spans[key][0] for key in replaced)
    stop = max(model.spans[key][1] for key in replaced)
    # A hash from an earlier call is kept, so that it reveals later changes to tensors.
    digest = model.fields.get(TENSORS_SHA256) or tensors_sha256(model)
    values = {**strings, TENSORS_SHA256: digest}
    if _size(values) > stop - start:
        del values[BLOCKS]
    entries = [_entry(key, value) for key, value in values.items()]
    rest = stop - start - sum(map(len, entries)) - len(_entry(RESERVED, ""))
    if rest < 0:
        raise ValueError(f"{file} has room for only {stop - start} bytes of provenance")
    region = b"".join((*entries, _entry(RESERVED, " " * rest)))
    count = len(model.fields) - len(replaced) + len(entries) + 1
    with file.open("r+b") as opened:
        opened.seek(start)
        opened.write(region)
        opened.seek(_COUNT_AT)
        opened.write(struct.pack("<Q", count))


def tensors_sha256(model: GgufModel) -> str:
    """SHA-256 over every tensor's name, type, shape and bytes, in the order of the file."""
    digest = hashlib.sha256()
    for name, stored in model.tensors.items():
        digest.update(f"{name} {stored.type.name} {list(stored.shape)}\n".encode())
        with stored.file.open("rb") as file:
            file.seek(stored.start)
            left = stored.nbytes
            while left and (chunk := file.read(min(left, _CHUNK))):
                digest.update(chunk)
                left -= len(chunk)
    return digest.hexdigest()


def _size(values: Mapping[str, str]) -> int:
    return sum(len(_entry(key, value)) for key, value in {**values, RESERVED: ""}.items())


def _entry(key: str, value: str) -> bytes:
    name, text = key.encode(), value.encode()
    head = struct.pack("<Q", len(name)) + name
    return head + struct.pack("<IQ", STRING, len(text)) + text
