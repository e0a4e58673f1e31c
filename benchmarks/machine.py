"""The machine that something is measured on."""

import os
import platform
from pathlib import Path


def described() -> str:
    """Its processor and how many cores there are for us."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"
