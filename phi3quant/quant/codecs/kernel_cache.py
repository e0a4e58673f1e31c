"""Cache of compiled kernels, in a folder named after a hash of all their sources.

numba recompiles a function when its own file changes, but not when a function that it calls
changes. A new folder for every change of the sources and libraries rules out stale machine code.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
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

from phi3quant.disk.user_cache import user_cache
from phi3quant.notices import announce

ROOT = Path(__file__).resolve().parents[3]
"""Folder of the packages."""
# Folders of other sources are removed after this many days without use.
_KEPT_DAYS = 30
COMPILING = "compiling kernels for this machine (once, about 20 s)"
_NAME = re.compile(r"kernels-[0-9a-f]{16}")
# Longer than any compilation; then a process is stuck.
_PATIENCE = 120

compilers: dict[str, "subprocess.Popen[bytes]"] = {}
"""Processes that are compiling kernels now, by the kernels' names; see compile_ahead.py."""


def sources() -> list[Path]:
    """Source files of all kernels."""
    converters = ROOT / "converters"
    codecs = sorted((ROOT / "phi3quant" / "quant" / "codecs").glob("*.py"))
    return [*codecs, converters / "packed" / "bits.py", converters / "half.py"]


def key(files: Sequence[Path]) -> str:
    """Hash of the files and of the compiler's version, 16 hexadecimal digits.

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
    """Cache folder for the current sources, created if necessary; None if it can't be written."""
    place = _place()
    if place is None:
        return None
    try:
        cache_folder = place / f"kernels-{key(sources())}"
        if not cache_folder.is_dir():
            cache_folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            _remove_unused(place)
        with tempfile.TemporaryFile(dir=cache_folder):
            os.utime(cache_folder)
    except OSError:
        return None
    return cache_folder


@contextlib.contextmanager
def in_folder(path: Path) -> Iterator[None]:
    """Make ``path`` numba's cache for functions decorated in the body, but not for others."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(path)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


class Forgiving:
    """numba's cache of a function, with errors ignored so that the function is compiled instead.

    Attributes:
        inner: numba's cache.
        name: name of the function.
    """

    def __init__(self, inner: Any, name: str) -> None:
        self.inner = inner
        self.name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def load_overload(self, *arguments: Any) -> Any:
        """Machine code; None if it is missing or damaged."""
        compiled = self._load(arguments)
        if compiled is None:
            announce(COMPILING)
            process = compilers.pop(self.name, None)
            if process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_PATIENCE)
                compiled = self._load(arguments)
        return compiled

    def _load(self, arguments: tuple[Any, ...]) -> Any:
        try:
            return self.inner.load_overload(*arguments)
        except Exception:  # noqa: BLE001 - unpickling damaged bytes raises any exception
            return None

    def save_overload(self, *arguments: Any) -> None:
        """Save machine code if possible."""
        # Saving reads the index, which may be damaged.
        with contextlib.suppress(Exception):
            self.inner.save_overload(*arguments)


def _place() -> Path | None:
    """Parent of the cache folders: NUMBA_CACHE_DIR, or the user's folder for caches."""
    configured = os.environ.get("NUMBA_CACHE_DIR")
    return Path(configured) if configured else user_cache()


def _remove_unused(place: Path) -> None:
    """Remove cache folders that have not been used for ``_KEPT_DAYS``."""
    oldest = time.time() - _KEPT_DAYS * 86400
    for path in place.iterdir():
        ours = _NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
        if ours and path.stat().st_mtime < oldest:
            shutil.rmtree(path, ignore_errors=True)
