"""compressed-tensors, format pack-quantized: read by transformers and vLLM.

``weight_packed`` int32 [out, in*bits/32] in sequence along the row, ``weight_scale`` float16
[out, in/group], ``weight_zero_point`` int32 [out*bits/32, in/group] packed along the rows (only
asymmetric), ``weight_shape`` int64 [2]. The library calls the codes signed and stores them plus
2**(bits-1), which are this project's codes as they are.
"""

from collections.abc import Mapping
from typing import Any

import torch

from converters import bits
from converters.layout import PackedLayout
from converters.packed_sizes import compressed_tensors
from phi3quant.errors import SchemeError
from phi3quant.layout import check_groups
from phi3quant.qtensor import QuantizedTensor
from phi3quant.scheme import QuantScheme

_METHOD = "compressed-tensors"
_FORMAT = "pack-quantized"


def _pack(tensor: QuantizedTensor) -> Mapping[str, torch.Tensor]:
    width = tensor.scheme.bits
    stored = {
        "weight_packed": bits.pack(tensor.codes, width),
        "weight_scale": tensor.scales,
        "weight_shape": torch.tensor(tensor.shape, dtype=torch.int64),
    }
    if tensor.zero_points is not None:
        stored["weight_zero_point"] = bits.pack(tensor.zero_points.T, width).T.contiguous()
    return stored


def _unpack(
    stored: Mapping[str, torch.Tensor], shape: tuple[int, int], scheme: QuantScheme
) -> QuantizedTensor:
    rows, columns = shape
    zeros = None
    if not scheme.symmetric:
        packed = stored["weight_zero_point"].T
        zeros = bits.unpack(packed, scheme.bits, rows).T.contiguous()
    codes = bits.unpack(stored["weight_packed"], scheme.bits, columns)
    return QuantizedTensor(scheme, codes, stored["weight_scale"], zeros)


def _describe(scheme: QuantScheme) -> dict[str, Any]:
    whole_row = scheme.group_size is None
    weights: dict[str, Any] = {
        "num_bits": scheme.bits,
        "type": "int",
        "symmetric": scheme.symmetric,
        "strategy": "channel" if whole_row else "group",
        "dynamic": False,
    }
    if not whole_row:
        weights["group_size"] = scheme.group_size
    return {
        "quant_method": _METHOD,
        "format": _FORMAT,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


def _recognise(described: Mapping[str, Any]) -> QuantScheme | None:
    if described.get("quant_method") != _METHOD:
        return None
    groups = described.get("config_groups")
    if described.get("format") != _FORMAT or not isinstance(groups, Mapping) or len(groups) != 1:
        raise SchemeError(
            f"compressed-tensors of format {described.get('format')!r} with "
            f"{len(groups) if isinstance(groups, Mapping) else 'no'} groups can't be read; "
            f"only {_FORMAT!r} with one"
        )
    weights = next(iter(groups.values())).get("weights") or {}
    if weights.get("type") != "int" or weights.get("strategy") not in ("group", "channel"):
        raise SchemeError(
            f"compressed-tensors weights of type {weights.get('type')!r} and strategy "
            f"{weights.get('strategy')!r} can't be read; only 'int' with 'group' or 'channel'"
        )
    size = weights.get("group_size") if weights["strategy"] == "group" else None
    if not isinstance(weights.get("num_bits"), int) or not isinstance(size, int | None):
        raise SchemeError("compressed-tensors weights lack num_bits or group_size")
    return QuantScheme(weights["num_bits"], size, bool(weights.get("symmetric", True)))


LAYOUT = PackedLayout(
    name=_METHOD,
    title=_METHOD,
    check=check_groups,
    specify=compressed_tensors,
    pack=_pack,
    unpack=_unpack,
    describe=_describe,
    recognise=_recognise,
)
