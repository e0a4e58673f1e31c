"""Names of files that other files give: each must lie in the same folder."""

from pathlib import Path

_MAX_BYTES = 255
"""The longest name that common file systems take."""


def is_file_name(name: object) -> bool:
    """Whether ``name`` is a single component that a folder can hold, never a way out of it."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and "\0" not in name
        and Path(name).name == name
        and len(name.encode("utf-8", "replace")) <= _MAX_BYTES
    )
