"""Version of phi3quant."""

from importlib.metadata import PackageNotFoundError, version


def tool_version() -> str:
    """Installed version of phi3quant, or ``unknown``."""
    try:
        return version("phi3quant")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"


__version__ = tool_version()
