"""Record of a finished block in a file, from which a run can resume."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from converters.packed import bits
from converters.packed.sizes import words_for
from phi3quant.disk.output import sync, write_bytes
from phi3quant.disk.untrusted_json import parse_json
from phi3quant.errors import CheckpointError
from phi3quant.model.architecture import BLOCK_TENSORS, LINEARS, Shape
from phi3quant.model.config import Phi3Config
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.codecs import Codecs
from phi3quant.quant.codecs.affine import AffineCodec
from phi3quant.quant.codecs.ggml_blocks import BlockCodec, BlockTensor
from phi3quant.quant.offset_tensor import OffsetTensor
from phi3quant.quant.tensor import Quantized, QuantizedTensor


@dataclass(frozen=True)
class BlockRecord:
    """Finished block with its report for the manifest.

    Attributes:
        block: norms and linears; ``losses`` and ``folds`` are empty, since no writer needs them.
        report: report from phi3quant.run.one_block.quantize_block.
    """

    block: QuantizedBlock
    report: Mapping[str, Any]


def write_record(path: Path, block: QuantizedBlock, report: Mapping[str, Any]) -> None:
    """Write a block; if ``path`` exists, the whole block is on the disk.

    Raises:
        OutputError: the file can't be written.
    """
    tensors = dict(block.norms)
    for name, linear in block.linears.items():
        tensors.update(_stored(name, linear))
    metadata = {"report": json.dumps(report)}
    metadata["sha256"] = _digest(tensors, metadata["report"])
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(whole, metadata))
    # Otherwise a power failure could lose the name, although the file is on the disk.
    sync(path.parent)


def read_record(path: Path, config: Phi3Config, codecs: Codecs) -> BlockRecord | None:
    """Read a block back.

    Args:
        path: file from write_record.
        config: configuration of the model, for the shapes.
        codecs: codecs that the block was quantized with.

    Returns:
        The record; None if the file is incomplete or doesn't fit the arguments.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            names = opened.keys()
            tensors = {name: opened.get_tensor(name) for name in names}
        if metadata.get("sha256") != _digest(tensors, metadata.get("report", "")):
            return None
        shapes = {key: role.shape(config) for key, role in BLOCK_TENSORS.items()}
        norms = {key: _norm(tensors[key], shapes[key]) for key in shapes if key not in LINEARS}
        linears = {}
        for name in LINEARS:
            rows, columns = shapes[name]
            linears[name] = _restored(name, tensors, (rows, columns), codecs)
        report = parse_json(metadata["report"], dict[str, Any], where=str(path))
    except (OSError, SafetensorError, KeyError, ValueError, CheckpointError):
        return None
    return BlockRecord(QuantizedBlock(norms, linears, losses={}, folds={}), report)


def _norm(tensor: torch.Tensor, shape: Shape) -> torch.Tensor:
    if tensor.dtype != torch.float32 or tuple(tensor.shape) != shape:
        raise ValueError("a norm has another shape or type")
    return tensor


def _stored(name: str, linear: Quantized) -> dict[str, torch.Tensor]:
    if isinstance(linear, BlockTensor):
        return {f"{name}.data": torch.from_numpy(linear.data)}
    if not isinstance(linear, QuantizedTensor | OffsetTensor):
        raise TypeError(f"a {type(linear).__name__} can't be recorded for resuming")
    stored = {
        f"{name}.codes": bits.pack(linear.codes, linear.scheme.bits),
        f"{name}.scales": linear.scales,
    }
    if isinstance(linear, OffsetTensor):
        stored[f"{name}.offsets"] = linear.offsets
    elif linear.zero_points is not None:
        stored[f"{name}.zero_points"] = linear.zero_points
    return stored


def _restored(
    name: str, tensors: Mapping[str, torch.Tensor], shape: tuple[int, int], codecs: Codecs
) -> Quantized:
    codec = codecs[name]
    if isinstance(codec, BlockCodec):
        data = tensors[f"{name}.data"]
        if data.dtype != torch.uint8 or tuple(data.shape) != (
            shape[0],
            codec.kind.row_bytes(shape[1]),
        ):
            raise ValueError("blocks have another shape or type")
        return BlockTensor(codec.kind, data.numpy(), shape)
    if not isinstance(codec, AffineCodec):
        raise TypeError(f"a {type(codec).__name__} can't restore a recorded block")
    scheme = codec.scheme
    packed = tensors[f"{name}.codes"]
    words = words_for(shape[1], scheme.bits)
    if packed.dtype != torch.int32 or tuple(packed.shape) != (shape[0], words):
        raise ValueError("codes have another shape or type")
    codes = bits.unpack(packed, scheme.bits, shape[1])
    scales = tensors[f"{name}.scales"]
    if codec.real_offsets:
        offsets = tensors[f"{name}.offsets"]
        groups = (shape[0], shape[1] // scheme.group_width(shape[1]))
        if any(each.dtype != torch.float16 or each.shape != groups for each in (scales, offsets)):
            raise ValueError("scales or offsets have another shape or type")
        return OffsetTensor(scheme, codes, scales, offsets)
    zero_points = None if scheme.symmetric else tensors[f"{name}.zero_points"]
    return QuantizedTensor(scheme, codes, scales, zero_points)


def _digest(tensors: Mapping[str, torch.Tensor], report: str) -> str:
    """SHA-256 of the file's contents; safetensors itself detects only a changed size."""
    digest = hashlib.sha256(report.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
