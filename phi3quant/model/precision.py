"""Number type of calibration's matrix products on this machine."""

import torch


def product_dtype() -> torch.dtype:
    """BF16 if the CPU multiplies it faster than FP32 (AMX, AVX512-BF16), otherwise FP32.

    Calibration's statistics are means over many thousand tokens, in which the rounding of BF16
    averages out. Scoring always uses FP32.
    """
    abilities = torch.cpu.get_capabilities()
    fast = abilities.get("amx_bf16") or abilities.get("avx512_bf16")
    return torch.bfloat16 if fast else torch.float32
