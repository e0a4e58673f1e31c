"""MLX folders as other tools pack them, written here from the layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from phi3quant.model.architecture import LINEARS, block_tensor_name
from tests.converters.spoiled import EMBEDDING, HEAD, configure, copy_of

GROUP = 32
Tensors = dict[str, torch.Tensor]


def codes_of(weight: torch.Tensor, bits: int, columns: int) -> np.ndarray:
    """Codes [rows, columns] of words whose lowest bits come first."""
    stored = weight.view(torch.int32).numpy().view(np.uint8)
    stream = np.unpackbits(stored, axis=1, bitorder="little").reshape(-1, columns, bits)
    codes: np.ndarray = (stream << np.arange(bits, dtype=np.uint8)).sum(axis=-1, dtype=np.uint8)
    return codes


def weights_of(stored: Mapping[str, torch.Tensor], bits: int, group: int = GROUP) -> torch.Tensor:
    """Weights as MLX's documentation defines them, FP32."""
    scales = stored["scales"].float().repeat_interleave(group, dim=1)
    biases = stored["biases"].float().repeat_interleave(group, dim=1)
    codes = codes_of(stored["weight"], bits, scales.shape[1])
    return scales * torch.from_numpy(codes.astype(np.float32)) + biases


def packed_by_edge(weight: torch.Tensor, bits: int, dtype: torch.dtype) -> Tensors:
    """Pack a matrix as mx.quantize does: an end of each group is a bias, whatever the scale.

    Scales are negative where the largest weight is farther from zero than the smallest.
    """
    rows, columns = weight.shape
    groups = weight.float().view(rows, -1, GROUP)
    low, high = groups.amin(dim=-1), groups.amax(dim=-1)
    upside_down = high.abs() > low.abs()
    edge = torch.where(upside_down, high, low).to(dtype)
    scale = ((high - low) / ((1 << bits) - 1)).clamp(min=1e-7)
    scales = torch.where(upside_down, -scale, scale).to(dtype)
    codes = ((groups - edge.float()[..., None]) / scales.float()[..., None]).round()
    codes = codes.clamp(0, (1 << bits) - 1).to(torch.uint8).view(rows, columns)
    stream = (codes.numpy()[:, :, None] >> np.arange(bits, dtype=np.uint8)) & 1
    stored = np.packbits(stream.reshape(rows, -1), axis=1, bitorder="little")
    words = torch.from_numpy(stored.view(np.uint32))
    return {"weight": words, "scales": scales, "biases": edge}


def pack(
    folder: Path, dtype: torch.dtype = torch.float16, bits: int = 4, outer: int | None = None
) -> None:
    """Pack a checkpoint with real offsets; ``folder``'s plain twin is ``dense``.

    Args:
        folder: plain checkpoint.
        dtype: type of scales and offsets.
        bits: of the blocks' codes.
        outer: bits of embedding and head; None to leave them plain.
    """
    tensors = load_file(folder / "model.safetensors")
    dense = dict(tensors)
    names = {block_tensor_name(index, key): bits for index in range(2) for key in LINEARS}
    names |= {} if outer is None else {name: outer for name in (EMBEDDING, HEAD) if name in tensors}
    for name, width in names.items():
        stored = packed_by_edge(tensors.pop(name), width, dtype)
        dense[name] = weights_of(stored, width)
        tensors |= {name.removesuffix("weight") + end: part for end, part in stored.items()}
    copy_of(folder, folder.parent / "dense")
    save_file(dense, folder.parent / "dense" / "model.safetensors", metadata={"format": "pt"})
    save_file(tensors, folder / "model.safetensors", metadata={"format": "mlx"})
    described: dict[str, Any] = {"group_size": GROUP, "bits": bits, "mode": "affine"}
    if outer is not None:
        for module in ("model.embed_tokens", "lm_head"):
            if f"{module}.scales" in tensors:
                described[module] = {"group_size": GROUP, "bits": outer}
    configure(folder, quantization=described, quantization_config=described)
