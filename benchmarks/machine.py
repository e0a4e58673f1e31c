"""Description of the machine on which benchmarks run."""

import os
import platform
from pathlib import Path

import torch

# Names that torch gives to instructions of matrix products, from the fastest, and usual ones.
_ABILITIES = {"amx_tile": "AMX", "avx512_bf16": "AVX512-BF16", "avx512_f": "AVX-512"}


def described() -> str:
    """Model and vector instructions of the processor, and number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    able = torch.cpu.get_capabilities()
    best = next((f" with {usual}" for name, usual in _ABILITIES.items() if able.get(name)), "")
    return f"{names[0] if names else platform.processor()}{best}, {os.cpu_count()} cores"
