"""GPTQ folders of random codes, packed and dequantized here from the published layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from converters import open_weights
from phi3quant.model.architecture import LINEARS, block_tensor_name
from tests.converters.spoiled import configure, copy_of

GROUP = 16
GPTQ: dict[str, Any] = {
    "quant_method": "gptq",
    "checkpoint_format": "gptq",
    "bits": 4,
    "group_size": GROUP,
    "sym": False,
    "desc_act": False,
}
Tensors = dict[str, torch.Tensor]


def words(values: np.ndarray, bits: int) -> torch.Tensor:
    """Words of columns [count * bits / 32, columns]; value i of a column is at bit i * bits."""
    count, columns = values.shape
    packed = np.zeros((count * bits // 32 + 1, columns), np.uint64)
    for index, row in enumerate(values.astype(np.uint64)):
        word, bit = divmod(index * bits, 32)
        packed[word] |= row << np.uint64(bit)
        packed[word + 1] |= packed[word] >> np.uint64(32)
        packed[word] &= np.uint64(0xFFFFFFFF)
    return torch.from_numpy(packed[:-1].astype(np.uint32).view(np.int32))


def values(packed: torch.Tensor, bits: int) -> np.ndarray:
    """Values [count, columns] of ``words``."""
    unsigned = packed.numpy().view(np.uint32).astype(np.uint64)
    numbers = np.concatenate([unsigned, np.zeros_like(unsigned[:1])])
    fields = []
    for index in range(32 * len(unsigned) // bits):
        word, bit = divmod(index * bits, 32)
        both = numbers[word] | (numbers[word + 1] << np.uint64(32))
        fields.append((both >> np.uint64(bit)) & np.uint64((1 << bits) - 1))
    return np.array(fields)


def dequantized(stored: Mapping[str, torch.Tensor], bits: int, version: int) -> torch.Tensor:
    """Weights [out, in]: scale of the column's group times (code - zero point)."""
    qzeros = stored["qzeros"].contiguous()
    if version == 1:
        # As GPTQModel: one is added to all zero points of a word at once.
        ones = sum(1 << shift for shift in range(0, 32, bits))
        qzeros = qzeros + ones
    zeros = values(qzeros.T.contiguous(), bits).T.astype(np.float32)
    codes = values(stored["qweight"].contiguous(), bits).astype(np.float32)
    groups = stored["g_idx"].long().numpy()
    scales = stored["scales"].float().numpy()
    return torch.from_numpy(((codes - zeros[groups]) * scales[groups]).T.copy())


def pack(
    folder: Path, *, bits: int = 4, version: int = 1, by_index: bool = False, sym: bool = False
) -> None:
    """Replace matrices by random codes; ``folder``'s plain twin is ``dense``."""
    random = np.random.default_rng(7)
    tensors = load_file(folder / "model.safetensors")
    dense = dict(tensors)
    for index in range(2):
        for key in LINEARS:
            name = block_tensor_name(index, key)
            rows, columns = tensors.pop(name).shape
            codes = random.integers(0, 1 << bits, (columns, rows))
            zeros = random.integers(0, 1 << bits, (columns // GROUP, rows))
            zeros = np.full_like(zeros, 1 << (bits - 1)) if sym else zeros
            qzeros = words(zeros.T, bits).T.contiguous()
            if version == 1:
                qzeros -= sum(1 << shift for shift in range(0, 32, bits))
            groups = np.arange(columns) // GROUP
            stored = {
                "qweight": words(codes, bits),
                "qzeros": qzeros,
                "scales": torch.from_numpy(random.uniform(0.01, 0.03, zeros.shape)).half(),
                "g_idx": torch.from_numpy(random.permutation(groups) if by_index else groups).int(),
            }
            dense[name] = dequantized(stored, bits, version)
            stem = name.removesuffix("weight")
            tensors |= {stem + ending: tensor for ending, tensor in stored.items()}
    copy_of(folder, folder.parent / "dense")
    save_file(dense, folder.parent / "dense" / "model.safetensors", metadata={"format": "pt"})
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint_format = "gptq" if version == 1 else "gptq_v2"
    changes = {"bits": bits, "checkpoint_format": checkpoint_format, "desc_act": by_index}
    configure(folder, quantization_config={**GPTQ, **changes, "sym": sym})


def describe(folder: Path, **changes: Any) -> None:
    described = json.loads((folder / "config.json").read_text())["quantization_config"]
    configure(folder, quantization_config={**described, **changes})


def assert_equal_to_dense(folder: Path) -> None:
    packed, dense = open_weights(folder), open_weights(folder.parent / "dense")
    for index in range(2):
        for key, weights in packed.block(index).items():
            assert torch.allclose(weights, dense.block(index)[key], atol=1e-6)
