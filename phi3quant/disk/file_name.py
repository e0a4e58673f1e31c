"""Check of file names that come from other files: each must lie in the same folder."""

from pathlib import Path

_MAX_BYTES = 255
"""Length limit of a name on common file systems, in bytes of UTF-8."""


def is_file_name(name: object) -> bool:
    """Whether ``name`` is a single path component, so that it can't lead out of a folder."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and "\0" not in name
        and Path(name).name == name
        and len(name.encode("utf-8", "replace")) <= _MAX_BYTES
    )
