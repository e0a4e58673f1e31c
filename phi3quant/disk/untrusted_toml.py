"""Reader of untrusted TOML: bounded, and every fault is one message."""

import tomllib
from pathlib import Path
from typing import Any

from phi3quant.errors import InputError

MAX_FILE_BYTES = 1 << 20
"""Size limit of a TOML file; they are written by hand."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: the file can't be read, is larger than MAX_FILE_BYTES, or isn't TOML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path} can't be read: {reason}") from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(
            f"{path} has more than {MAX_FILE_BYTES >> 20} MiB, too much for a TOML file"
        )
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8 (byte {error.start})"
    except RecursionError:
        reason = "it is nested too deeply"
    # Impossible dates and numbers of too many digits are plain ValueErrors.
    except ValueError as error:
        reason = str(error)
    raise InputError(f"{path} is not readable as TOML: {reason}")
