"""Memory that is kept for reuse, seen by the pages that the system has to clear."""

import resource
import subprocess
import sys

import pytest

from phi3quant import freed_memory

ONLY_GLIBC = pytest.mark.skipif(freed_memory._glibc() is None, reason="needs glibc")
BYTES, TIMES = 50_000_000, 50
PAGES = BYTES // resource.getpagesize()


def faults(*, keep: bool) -> int:
    """Pages that a process of its own clears for buffers that it allocates again and again."""
    code = f"""
import resource, torch
from phi3quant import freed_memory
def clear():
    for _ in range({TIMES}):
        torch.ones({BYTES}, dtype=torch.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
with freed_memory.kept(keep={keep}):
    clear()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@ONLY_GLIBC
def test_kept_memory_is_cleared_less_often() -> None:
    usual = faults(keep=False)
    assert usual > PAGES * TIMES / 2
    assert faults(keep=True) < usual / 2


@ONLY_GLIBC
def test_released_memory_leaves_the_process() -> None:
    code = f"""
import torch
from pathlib import Path
from phi3quant import freed_memory
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])
with freed_memory.kept(keep=True):
    torch.ones({BYTES}, dtype=torch.uint8)
    held = resident()
    freed_memory.release()
    print(held - resident())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > PAGES / 2


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freed_memory, "_glibc", lambda: None)
    with freed_memory.kept(keep=True):
        freed_memory.release()
