"""Largest resident set of this process within a span of time."""

import contextlib
import re
from pathlib import Path

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
# Resets the peak; see proc(5).
_RESET = "5"
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


def begin_span() -> bool:
    """Start a new span; False where the system can't."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_RESET, encoding="ascii")
        return True
    return False


def peak_of_span() -> int | None:
    """Bytes; None where the system doesn't report them."""
    with contextlib.suppress(OSError):
        match = _PEAK.search(_STATUS.read_text(encoding="ascii", errors="replace"))
        return int(match[1]) * 1024 if match else None
    return None
