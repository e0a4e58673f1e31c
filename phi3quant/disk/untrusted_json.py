"""Reader of untrusted JSON: strict, bounded and checked against a type.

Deep nesting, very long numbers, NaN, broken UTF-8 and halves of surrogate pairs are refused with a
message. Accepted, each of them would later end in a library's exception or in a file that other
programs can't read.
"""

import re
from pathlib import Path
from typing import Any

import msgspec

from phi3quant.errors import CheckpointError, Phi3QuantError

MAX_FILE_BYTES = 256 << 20
"""Size limit of a JSON file; the largest in a published model, a tokenizer.json, has 35 MB."""

_BOM = b"\xef\xbb\xbf"
# Escaped backslashes and whole pairs match first, so that the last group matches only halves.
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
    """Parse JSON and check it against a type.

    Args:
        text: UTF-8, with or without a byte order mark.
        kind: required type, such as ``dict[str, int]``; any type that msgspec accepts.
        where: file (and line) for messages.
        raises: class of the errors raised.
        mend_halves: read half of a surrogate pair as U+FFFD instead of refusing it.

    Raises:
        Phi3QuantError: an instance of ``raises``, if the text isn't JSON or not of type ``kind``.
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
    """Read a JSON file, an object by default. See ``parse_json``.

    Raises:
        Phi3QuantError: an instance of ``raises``, if the file can't be read, is larger than
            MAX_FILE_BYTES, isn't JSON or not of type ``kind``.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise raises(
                f"{path} has {size:,} bytes; JSON files above {MAX_FILE_BYTES >> 20} MiB are not "
                "read"
            )
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise raises(f"{path} can't be read: {error}") from None
    return parse_json(data, kind, where=str(path), raises=raises)


def read_json_if_there(
    path: Path, *, raises: type[Phi3QuantError] = CheckpointError
) -> dict[str, Any]:
    """JSON object in ``path``, or an empty one if the file doesn't exist.

    Raises:
        Phi3QuantError: as read_json.
    """
    content: dict[str, Any] = read_json(path, raises=raises) if path.is_file() else {}
    return content


def _without_halves(data: bytes, where: str, raises: type[Phi3QuantError], *, mend: bool) -> bytes:
    def mended(match: re.Match[bytes]) -> bytes:
        if match["half"] is None:
            return match[0]
        if not mend:
            raise raises(f"{where} holds {match[0].decode()}, half of a surrogate pair")
        return rb"\ufffd"

    return _ESCAPES.sub(mended, data)
