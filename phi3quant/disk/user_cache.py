"""The user's folder for caches."""

import os
import sys
from pathlib import Path


def user_cache() -> Path | None:
    """phi3quant's folder in the user's cache folder, which may not exist yet.

    Returns:
        The folder; None if the user has no home directory.
    """
    system = "Library/Caches" if sys.platform == "darwin" else ".cache"
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / system)
    except RuntimeError:  # the user has no home directory
        return None
    return caches / "phi3quant" if caches.is_absolute() else None
