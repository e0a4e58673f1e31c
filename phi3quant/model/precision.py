"""Which number type the products of calibration use on this machine."""

import torch


def product_dtype() -> torch.dtype:
    """BF16 where the CPU multiplies it faster than FP32 (AMX, AVX512-BF16), else FP32.

    Calibration's statistics average over many thousand tokens, so BF16's rounding doesn't show in
    them; scoring always uses FP32.
    """
    abilities = torch.cpu.get_capabilities()
    fast = abilities.get("amx_bf16") or abilities.get("avx512_bf16")
    return torch.bfloat16 if fast else torch.float32
