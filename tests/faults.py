"""Artifacts with the faults that converters have had, planted in a good one."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from converters import open_model
from converters.packed.reader import PackedCheckpoint
from phi3quant.disk.output import MANIFEST
from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.model.architecture import LINEARS, block_tensor_name
from phi3quant.provenance.sealing import seal
from phi3quant.quant.tensor import QuantizedTensor

Change = Callable[[int, str, QuantizedTensor], QuantizedTensor]
"""From a block's number, a linear's name and its codes to the codes that a faulty tool writes."""


def one_layer_corrupted(index: int, key: str, tensor: QuantizedTensor) -> QuantizedTensor:
    """One matrix of one block was read from a row too late."""
    if (index, key) != (2, "down_proj"):
        return tensor
    return replace(tensor, codes=tensor.codes.roll(1, 0), scales=tensor.scales.roll(1, 0))


def zero_points_off_by_one(_index: int, _key: str, tensor: QuantizedTensor) -> QuantizedTensor:
    """As tools do that store one less, or one more, than others expect."""
    assert tensor.zero_points is not None
    return replace(tensor, zero_points=(tensor.zero_points + 1).clamp(max=15))


def nibbles_swapped(_index: int, _key: str, tensor: QuantizedTensor) -> QuantizedTensor:
    """The two codes of every byte change places."""
    pairs = tensor.codes.view(*tensor.codes.shape[:-1], -1, 2)
    return replace(tensor, codes=pairs.flip(-1).reshape(tensor.codes.shape))


def with_codes(good: Path, bad: Path, change: Change) -> Path:
    """A copy of a packed folder whose matrices were changed, with a manifest that agrees."""
    shutil.copytree(good, bad)
    model = open_model(good)
    assert isinstance(model, PackedCheckpoint)
    tensors = load_file(good / "model.safetensors")
    for index in range(model.config.num_hidden_layers):
        for key in LINEARS:
            stem = block_tensor_name(index, key).removesuffix("weight")
            changed = change(index, key, model.quantized(index, key))
            packed = model.layout.pack(changed, model.schemes)
            tensors.update({f"{stem}{ending}": value for ending, value in packed.items()})
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    resealed(bad)
    return bad


def with_config(good: Path, bad: Path, changes: Mapping[str, Any]) -> Path:
    """A copy of a packed folder that promises another architecture."""
    shutil.copytree(good, bad)
    config = json.loads((bad / "config.json").read_text())
    (bad / "config.json").write_text(json.dumps({**config, **changes}))
    resealed(bad)
    return bad


def resealed(folder: Path) -> None:
    """Hash the files anew, as a tool would that knows nothing of its fault."""
    seal(folder, read_json_if_there(folder / MANIFEST))


Plant = Callable[[Path, Path], Path]
"""From a good folder and a path to the bad one made there."""

FAULTS: Mapping[str, Plant] = {
    "one corrupted layer": lambda good, bad: with_codes(good, bad, one_layer_corrupted),
    "zero points off by one": lambda good, bad: with_codes(good, bad, zero_points_off_by_one),
    "swapped nibbles": lambda good, bad: with_codes(good, bad, nibbles_swapped),
    "wrong RoPE base": lambda good, bad: with_config(good, bad, {"rope_theta": 500_000.0}),
    "missing sliding window": lambda good, bad: with_config(good, bad, {"sliding_window": None}),
}


def flip_bit(file: Path, tensor: str, bit: int = 0, element: int = 0) -> None:
    """Flip one bit of one FP16 number of a safetensors file, in place."""
    content = bytearray(file.read_bytes())
    length = int.from_bytes(content[:8], "little")
    start = json.loads(content[8 : 8 + length])[tensor]["data_offsets"][0]
    at = 8 + length + start + 2 * element + bit // 8
    content[at] ^= 1 << (bit % 8)
    file.write_bytes(content)


def scale_name(folder: Path) -> str:
    """Some scale of a packed folder."""
    tensors: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return next(name for name in tensors if name.endswith("weight_scale"))
