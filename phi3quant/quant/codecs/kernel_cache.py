"""Where compiled kernels are kept: in a folder named by all that went into them.

numba compiles a function again when its own file changes, but not when a function that it calls
does. A folder for each state of all sources, and of the libraries, leaves nothing stale to run.
"""

import contextlib
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np

from phi3quant.notices import announce

_ROOT = Path(__file__).resolve().parents[3]
# Days without use after which a folder of other sources is removed.
_KEPT_DAYS = 30
COMPILING = "compiling kernels for this machine (once, about 20 s)"
_NAME = re.compile(r"kernels-[0-9a-f]{16}")


def sources() -> list[Path]:
    """The files that kernels are compiled from."""
    converters = _ROOT / "converters"
    codecs = sorted((_ROOT / "phi3quant" / "quant" / "codecs").glob("*.py"))
    return [*codecs, converters / "packed" / "bits.py", converters / "half.py"]


def key(files: Sequence[Path]) -> str:
    """16 hexadecimal digits that change with any of the files and with the compiler.

    Raises:
        OSError: a file can't be read.
    """
    digest = hashlib.sha256()
    for part in (numba.__version__, llvmlite.__version__, np.__version__, sys.version):
        digest.update(f"{part}\n".encode())
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


@cache
def folder() -> Path | None:
    """The folder for these sources, made if need be; None if there is no place to write."""
    place = _place()
    if place is None:
        return None
    try:
        made = place / f"kernels-{key(sources())}"
        if not made.is_dir():
            made.mkdir(parents=True, mode=0o700, exist_ok=True)
            _remove_unused(place)
        with tempfile.TemporaryFile(dir=made):
            os.utime(made)
    except OSError:
        return None
    return made


@contextlib.contextmanager
def in_folder(path: Path) -> Iterator[None]:
    """Let numba keep in ``path`` what is decorated meanwhile; other packages keep their place."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(path)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


class Forgiving:
    """numba's cache of a function; where it can't be read or written, the function is compiled.

    Attributes:
        kept: numba's.
    """

    def __init__(self, kept: Any) -> None:
        self.kept = kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kept, name)

    def load_overload(self, *given: Any) -> Any:
        """Machine code; None if there is none, or it is damaged."""
        try:
            compiled = self.kept.load_overload(*given)
        except Exception:  # noqa: BLE001 - whatever unpickling makes of damaged bytes
            compiled = None
        if compiled is None:
            announce(COMPILING)
        return compiled

    def save_overload(self, *given: Any) -> None:
        """Keep machine code, if the disk takes it."""
        # A damaged index is read here, too.
        with contextlib.suppress(Exception):
            self.kept.save_overload(*given)


def _place() -> Path | None:
    """The folder of the folders: the user's choice, or the system's place for caches."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return Path(chosen)
    try:
        system = "Library/Caches" if sys.platform == "darwin" else ".cache"
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / system)
    except RuntimeError:  # the user has no home
        return None
    return caches / "phi3quant" if caches.is_absolute() else None


def _remove_unused(place: Path) -> None:
    """Remove the folders of sources that nothing has used for a month."""
    oldest = time.time() - _KEPT_DAYS * 86400
    for path in place.iterdir():
        ours = _NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
        if ours and path.stat().st_mtime < oldest:
            shutil.rmtree(path, ignore_errors=True)
