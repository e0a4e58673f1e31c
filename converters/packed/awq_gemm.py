"""AWQ-GEMM: AutoAWQ's layout, read by transformers (with gptqmodel), vLLM and others.

``qweight`` int32 [in, out/8] and ``qzeros`` int32 [in/group, out/8] hold eight columns per word, in
the order of ``_ORDER``; ``scales`` is float16 [in/group, out]. Readers expect zero points for
symmetric codes too.
"""

from collections.abc import Mapping
from typing import Any

import torch

from converters.packed import bits
from converters.packed.layout import Keys, PackedLayout, Stated
from converters.packed.sizes import awq_gemm, check_awq_gemm
from converters.packed.tool_keys import AUTOROUND, PLAIN_WEIGHTS, QUANTIZER_KEYS
from phi3quant.errors import SchemeError
from phi3quant.model.config import shown
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import GROUP_SIZES, QuantScheme
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.units import alternatives

_BITS = 4
# Column, of eight, that place i of a word holds.
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)

_PACKED_AS_AWQ = ("auto_round:auto_awq", "auto_round:awq", "awq", "auto_awq")
"""AutoRound's names of this layout in configurations of its own method."""

_RUNTIME_KEYS = (
    "backend",
    "do_fuse",
    "exllama_config",
    "fuse_max_seq_len",
    "modules_to_fuse",
)
_KEYS = Keys(
    section="the quantization_config for AWQ",
    free=(
        "quant_method",
        "bits",
        "group_size",
        "modules_to_not_convert",
        "sym",
        "meta",
        *QUANTIZER_KEYS,
        *_RUNTIME_KEYS,
    ),
    fixed={
        "version": ("gemm", "GEMM"),
        "format": ("gemm",),
        "checkpoint_format": ("gemm",),
        # False for symmetric codes, whose zero points are stored nevertheless.
        "zero_point": (True, False),
        "desc_act": (False, None),
        **PLAIN_WEIGHTS,
        "packing_format": (None, *_PACKED_AS_AWQ),
    },
)
"""Keys that AutoAWQ, GPTQModel, AutoRound and transformers write for AWQ."""


def _pack(tensor: QuantizedTensor, _schemes: MatrixSchemes) -> Mapping[str, torch.Tensor]:
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


def _describe(schemes: MatrixSchemes) -> dict[str, Any]:
    scheme = schemes.base
    return {
        "quant_method": "awq",
        "version": "gemm",
        "bits": scheme.bits,
        "group_size": -1 if scheme.group_size is None else scheme.group_size,
        "zero_point": True,
        "modules_to_not_convert": ["lm_head"],
    }


def _recognise(described: Mapping[str, Any]) -> Stated | None:
    method, packing = described.get("quant_method"), described.get("packing_format")
    if method != "awq" and (method != AUTOROUND or packing not in _PACKED_AS_AWQ):
        return None
    width, size = described.get("bits"), described.get("group_size")
    if type(width) is not int or width != _BITS:
        raise SchemeError(f"AWQ with {shown(width)} bits isn't supported; it must have {_BITS}")
    if type(size) is not int or (size != -1 and size not in GROUP_SIZES):
        raise SchemeError(
            f"AWQ's group_size {shown(size)} isn't supported; it must be "
            f"{alternatives((*GROUP_SIZES, -1))}"
        )
    _KEYS.check(described)
    plain = described.get("modules_to_not_convert") or []
    if not isinstance(plain, list):
        raise SchemeError(f"AWQ's modules_to_not_convert is {shown(plain)}; it must be a list")
    # Zero points are always stored, so the scheme counts as asymmetric.
    scheme = QuantScheme(_BITS, None if size == -1 else size, symmetric=False)
    return Stated(scheme, tuple(map(str, plain)))


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
