"""AWQ-GEMM: AutoAWQ's layout, read by transformers (with gptqmodel), vLLM and others.

``qweight`` int32 [in, out/8] and ``qzeros`` int32 [in/group, out/8] hold eight columns a word in
the order below, ``scales`` float16 [in/group, out]. Readers expect zero points even of symmetric
codes.
"""

from collections.abc import Mapping
from typing import Any

import torch

from converters import bits
from converters.layout import PackedLayout
from converters.packed_sizes import awq_gemm, check_awq_gemm
from phi3quant.errors import SchemeError
from phi3quant.qtensor import QuantizedTensor
from phi3quant.scheme import GROUP_SIZES, QuantScheme

_BITS = 4
# Place i of a word holds this one of its eight columns.
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def _pack(tensor: QuantizedTensor) -> Mapping[str, torch.Tensor]:
    zeros = tensor.zero_points
    if zeros is None:
        zeros = torch.full(tensor.scales.shape, tensor.scheme.middle, dtype=torch.uint8)
    return {
        "qweight": bits.pack(tensor.codes.T, _BITS, _ORDER),
        "qzeros": bits.pack(zeros.T, _BITS, _ORDER),
        "scales": tensor.scales.T.contiguous(),
    }


def _unpack(
    stored: Mapping[str, torch.Tensor], shape: tuple[int, int], scheme: QuantScheme
) -> QuantizedTensor:
    rows, _ = shape
    return QuantizedTensor(
        scheme,
        bits.unpack(stored["qweight"], _BITS, rows, _ORDER).T.contiguous(),
        stored["scales"].T.contiguous(),
        bits.unpack(stored["qzeros"], _BITS, rows, _ORDER).T.contiguous(),
    )


def _describe(scheme: QuantScheme) -> dict[str, Any]:
    return {
        "quant_method": "awq",
        "version": "gemm",
        "bits": scheme.bits,
        "group_size": -1 if scheme.group_size is None else scheme.group_size,
        "zero_point": True,
        "modules_to_not_convert": ["lm_head"],
    }


def _recognise(described: Mapping[str, Any]) -> QuantScheme | None:
    if described.get("quant_method") != "awq":
        return None
    if described.get("version", "gemm") != "gemm" or described.get("bits") != _BITS:
        raise SchemeError(
            f"AWQ version {described.get('version')!r} with {described.get('bits')} bits "
            f"can't be read; only 'gemm' with {_BITS}"
        )
    size = described.get("group_size")
    if size != -1 and size not in GROUP_SIZES:
        raise SchemeError(f"AWQ group_size {size!r} can't be read; known are {GROUP_SIZES} and -1")
    # The zero points are always stored, so that what is read counts as asymmetric.
    return QuantScheme(_BITS, None if size == -1 else size, symmetric=False)


LAYOUT = PackedLayout(
    name="awq-gemm",
    title="AWQ-GEMM",
    check=check_awq_gemm,
    specify=awq_gemm,
    pack=_pack,
    unpack=_unpack,
    describe=_describe,
    recognise=_recognise,
)
