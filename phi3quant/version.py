"""Which phi3quant this is."""

from importlib.metadata import PackageNotFoundError, version


def tool_version() -> str:
    """The installed version of phi3quant."""
    try:
        return version("phi3quant")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"


__version__ = tool_version()
