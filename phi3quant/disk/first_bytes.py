"""File types recognized by their first bytes, whatever the name."""

from pathlib import Path

GGUF_MAGIC = b"GGUF"
_LFS_POINTER = b"version https://git-lfs"


def starts_with(path: Path, magic: bytes) -> bool:
    """Whether ``path`` is a regular file that begins with ``magic``."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except (OSError, ValueError):
        return False


def lfs_hint(path: Path) -> str | None:
    """Message for a git-lfs pointer in place of the file itself; None for other files."""
    if not starts_with(path, _LFS_POINTER):
        return None
    return f"{path} is a git-lfs pointer, not the file itself; run: git lfs pull"
