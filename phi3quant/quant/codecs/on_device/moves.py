"""Codecs for a device, and quantized blocks on their way between it and the CPU."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from phi3quant.model.device import CPU
from phi3quant.quant.block import QuantizedBlock
from phi3quant.quant.codecs import Codec, Codecs
from phi3quant.quant.codecs.affine import AffineCodec
from phi3quant.quant.codecs.ggml_blocks import BlockCodec
from phi3quant.quant.codecs.on_device.affine import AffineDeviceCodec
from phi3quant.quant.codecs.on_device.block_tensor import BlocksOnDevice
from phi3quant.quant.codecs.on_device.blocks import DeviceBlockCodec
from phi3quant.quant.offset_tensor import OffsetTensor
from phi3quant.quant.tensor import Quantized, QuantizedTensor

_CODECS: Mapping[type, Callable[[Any], Codec]] = {
    AffineCodec: lambda codec: AffineDeviceCodec(codec.scheme, codec.real_offsets),
    BlockCodec: lambda codec: DeviceBlockCodec(codec.kind),
}


def codec_for(device: torch.device, codec: Codec) -> Codec:
    """Codec that does the same on a device; on the CPU, the given one, which is compiled."""
    return codec if device.type == "cpu" else _tensor_codec(codec)


def codecs_for(device: torch.device, codecs: Codecs) -> Codecs:
    """``codec_for`` for the codecs of a block."""
    return {name: codec_for(device, codec) for name, codec in codecs.items()}


def tensor_codecs(codecs: Codecs) -> Codecs:
    """Codecs that do the same by tensor operations, which run on every device."""
    return {name: _tensor_codec(codec) for name, codec in codecs.items()}


def _tensor_codec(codec: Codec) -> Codec:
    return _CODECS[type(codec)](codec)


def block_on_cpu(block: QuantizedBlock) -> QuantizedBlock:
    """A block as writers and records take it."""
    linears = {name: on_cpu(linear) for name, linear in block.linears.items()}
    norms = {name: norm.cpu() for name, norm in block.norms.items()}
    return replace(block, norms=norms, linears=linears)


def on_cpu(linear: Quantized) -> Quantized:
    """A matrix as writers and records take it; the same one if it is on the CPU already."""
    if isinstance(linear, BlocksOnDevice):
        return linear.stored()
    return linear.to(CPU) if isinstance(linear, QuantizedTensor | OffsetTensor) else linear
