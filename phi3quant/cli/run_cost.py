"""Time and memory of a run."""

import resource
import sys

from phi3quant.units import size


def run_cost(seconds: float, *, verified: bool) -> str:
    """The cost of a run in words."""
    line = f"in {seconds:.1f} s, peak memory {size(peak_memory_bytes())}"
    return line if verified else f"{line}; not verified"


def peak_memory_bytes() -> int:
    """The largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
