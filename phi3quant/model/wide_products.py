"""FP32 matrix products by the library that uses the CPU's whole vector width.

torch multiplies FP32 matrices by MKL, which uses only half of the width of AVX-512 on CPUs that
aren't Intel's. oneDNN, which torch contains too, uses all of it. torch chooses oneDNN when BF16
products are allowed; on a CPU without AMX, oneDNN still multiplies in FP32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

import torch

# The setting belongs to the process: its value from before, once for each call that is under way.
_BEFORE: list[str] = []
_LOCK = Lock()
# Shapes (rows, inner, columns) of trial products, and the largest relative error of FP32; BF16
# inputs would give about 2e-3.
_TRIALS = ((256, 512, 256), (33, 1025, 129), (1024, 64, 48))
_LARGEST_ERROR = 2e-6


@contextmanager
def wide_products() -> Iterator[None]:
    """Multiply FP32 matrices by oneDNN if that is exact and uses AVX-512, otherwise as before."""
    if not _is_exact():
        yield
        return
    with _by_onednn():
        yield


@cache
def _is_exact() -> bool:
    """Whether oneDNN uses AVX-512 on this CPU, and keeps FP32."""
    abilities = torch.cpu.get_capabilities()
    has_amx = any(name.startswith("amx") and able for name, able in abilities.items())
    settings = getattr(torch.backends.mkldnn, "matmul", None)
    if has_amx or not abilities.get("avx512_f") or not hasattr(settings, "fp32_precision"):
        return False
    generator = torch.Generator().manual_seed(0)
    for rows, inner, columns in _TRIALS:
        left = torch.randn(rows, inner, generator=generator)
        right = torch.randn(inner, columns, generator=generator)
        with _by_onednn():
            product = left @ right
        exact = left.double() @ right.double()
        if not (product - exact).norm() <= _LARGEST_ERROR * exact.norm():
            return False
    return True


@contextmanager
def _by_onednn() -> Iterator[None]:
    """Let torch choose oneDNN, until the last of all threads and nested calls that asked for it."""
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    with _LOCK:
        if not _BEFORE:
            _BEFORE.append(settings.fp32_precision)
            settings.fp32_precision = "bf16"
        else:
            _BEFORE.append(_BEFORE[0])
    try:
        yield
    finally:
        with _LOCK:
            before = _BEFORE.pop()
            if not _BEFORE:
                settings.fp32_precision = before
