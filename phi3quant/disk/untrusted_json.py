"""The one reader of JSON that comes from outside: strict, bounded, checked against a type.

Depth, digits, NaN, broken UTF-8 and halves of surrogate pairs are refused with a message. Later on,
each of them would end in a library's exception, or in a file that others can't read.
"""

import re
from pathlib import Path
from typing import Any

import msgspec

from phi3quant.errors import CheckpointError, Phi3QuantError

MAX_FILE_BYTES = 256 << 20
"""Size limit of a JSON file; the largest of published models, a tokenizer.json, has 35 MB."""

_BOM = b"\xef\xbb\xbf"
# Pairs and escaped backslashes are matched too, so that only halves are left for the last group.
_ESCAPES = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def parse_json(
    text: bytes | str,
    kind: Any = Any,
    *,
    where: str,
    raises: type[Phi3QuantError] = CheckpointError,
    mend_halves: bool = False,
) -> Any:
    """Parse JSON, and check it against a type.

    Args:
        text: UTF-8, with or without a byte order mark.
        kind: what the value must be, such as ``dict[str, int]``; anything that msgspec takes.
        where: file (and line) for messages.
        raises: error class of messages.
        mend_halves: read half of a surrogate pair as U+FFFD; by default it is refused.

    Raises:
        Phi3QuantError: ``raises``, if it isn't JSON or not of that type.
    """
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    data = data.removeprefix(_BOM)
    if b"\\u" in data:
        data = _without_halves(data, where, raises, mend=mend_halves)
    try:
        value: Any = msgspec.json.decode(data, type=kind)
    except RecursionError:
        reason = "it is nested too deeply"
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8 (byte {error.start})"
    except msgspec.ValidationError as error:
        raise raises(f"{where}: {error}") from None
    except msgspec.DecodeError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        if b"NaN" in data or b"Infinity" in data:
            reason += "; JSON has no NaN and no Infinity"
    else:
        return value
    raise raises(f"{where} is not readable as JSON: {reason}")


def read_json(
    path: Path, kind: Any = dict[str, Any], *, raises: type[Phi3QuantError] = CheckpointError
) -> Any:
    """Read a JSON file; an object by default. See ``parse_json``.

    Raises:
        Phi3QuantError: ``raises``, if the file can't be read, is larger than MAX_FILE_BYTES, isn't
            JSON or not of that type.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise raises(f"{path} has {size:,} bytes; a JSON file of a model has less")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise raises(f"{path} can't be read: {error}") from None
    return parse_json(data, kind, where=str(path), raises=raises)


def read_json_if_there(
    path: Path, *, raises: type[Phi3QuantError] = CheckpointError
) -> dict[str, Any]:
    """The JSON object in ``path``, or an empty one if there is no such file.

    Raises:
        Phi3QuantError: ``raises``, as read_json.
    """
    found: dict[str, Any] = read_json(path, raises=raises) if path.is_file() else {}
    return found


def _without_halves(data: bytes, where: str, raises: type[Phi3QuantError], *, mend: bool) -> bytes:
    def mended(match: re.Match[bytes]) -> bytes:
        if match["half"] is None:
            return match[0]
        if not mend:
            raise raises(f"{where} holds {match[0].decode()}, half of a surrogate pair")
        return rb"\ufffd"

    return _ESCAPES.sub(mended, data)
