"""Number type of matrix products on a device, in calibration and tuning."""

from functools import cache

import torch

from phi3quant.model.architecture import LINEARS, Block
from phi3quant.model.device import CPU


@cache
def product_dtype(device: torch.device = CPU) -> torch.dtype:
    """BF16 if the device multiplies it faster than FP32, otherwise FP32.

    CPUs do so with AMX or AVX512-BF16, CUDA GPUs from Ampere on. Calibration's statistics are means
    over many thousand tokens, in which the rounding of BF16 averages out. Scoring always uses FP32.
    """
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "mps":
        fast = False
    else:
        abilities = torch.cpu.get_capabilities()
        fast = bool(abilities.get("amx_bf16") or abilities.get("avx512_bf16"))
    return torch.bfloat16 if fast else torch.float32


def for_products(block: Block, dtype: torch.dtype | None = None) -> Block:
    """Convert a block's matrices to the type that their device multiplies fastest, or another.

    Args:
        block: tensors of a block.
        dtype: type of the matrices; None for product_dtype.
    """
    return {
        key: value.to(dtype or product_dtype(value.device)) if key in LINEARS else value
        for key, value in block.items()
    }
