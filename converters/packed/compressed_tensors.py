"""compressed-tensors, format pack-quantized: read by transformers and vLLM.

``weight_packed`` is int32 [out, in*bits/32], packed along each row; ``weight_scale`` float16
[out, in/group]; ``weight_zero_point`` int32 [out*bits/32, in/group], packed along each column and
only for asymmetric codes; ``weight_shape`` int64 [2]. The library defines signed codes and stores
them plus 2**(bits-1), which are this project's codes.
"""

from collections.abc import Mapping
from typing import Any

import torch

from converters.packed import bits
from converters.packed.layout import Keys, ModuleRule, PackedLayout, Stated
from converters.packed.sizes import check_compressed_tensors, compressed_tensors
from converters.widths import HELD_BITS
from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.model.config import shown
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.units import alternatives

_METHOD = "compressed-tensors"
_FORMAT = "pack-quantized"
_ALL_LINEARS = "Linear"
"""Target of a group that has all linears without a group of their own."""
_EXPRESSION = "re:"
"""Start of targets that are regular expressions."""

_KEYS = Keys(
    section="the quantization_config",
    free=(
        "quant_method",
        "format",
        "config_groups",
        "ignore",
        "version",
        "sparsity_config",
        "quantization_status",
        "global_compression_ratio",
        "run_compressed",
        "dequantize",
    ),
    fixed={
        "kv_cache_scheme": (None, {}),
        "transform_config": (None, {}, {"config_groups": {}}),
    },
)
_GROUP_KEYS = Keys(
    section="the group of the quantization_config",
    free=("targets", "weights"),
    fixed={
        "input_activations": (None, {}),
        "output_activations": (None, {}),
        "format": (None, _FORMAT),
    },
)
_WEIGHT_KEYS = Keys(
    section="the weights of the quantization_config",
    free=(
        "num_bits",
        "type",
        "symmetric",
        "strategy",
        "group_size",
        "observer",
        "observer_kwargs",
        # Types that the library uses while it quantizes; stored tensors have their own.
        "scale_dtype",
        "zp_dtype",
    ),
    fixed={
        "dynamic": (False, None),
        "block_structure": (None,),
        "actorder": (None, False, "weight", "static", "group", "dynamic"),
    },
)
_BY_INDEX = ("group", "dynamic")
"""Values of actorder with groups of columns that are not consecutive."""
_ADVICE = (
    "; load it with transformers (CompressedTensorsConfig(run_compressed=False)) and save it as "
    "BF16, or use the original checkpoint"
)


def _pack(tensor: QuantizedTensor, _schemes: MatrixSchemes) -> Mapping[str, torch.Tensor]:
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
    announced = stored["weight_shape"].tolist()
    if announced != [rows, columns]:
        raise CheckpointError(f"weight_shape is {announced}, but the model has {[rows, columns]}")
    zeros = None
    if not scheme.symmetric:
        packed = stored["weight_zero_point"].T
        zeros = bits.unpack(packed, scheme.bits, rows).T.contiguous()
    codes = bits.unpack(stored["weight_packed"], scheme.bits, columns)
    return QuantizedTensor(scheme, codes, stored["weight_scale"], zeros)


def _describe(schemes: MatrixSchemes) -> dict[str, Any]:
    """Describe the schemes, those of single modules first.

    Readers prefer a module's name in any order, but in another one the library warns of each name.
    """
    modules: dict[QuantScheme, list[str]] = {}
    for name, scheme in schemes.others.items():
        modules.setdefault(scheme, []).append(name.removesuffix(".weight"))
    groups = [*modules.items(), (schemes.base, [_ALL_LINEARS])]
    return {
        "quant_method": _METHOD,
        "format": _FORMAT,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {
            f"group_{number}": {"targets": targets, "weights": _weights(scheme)}
            for number, (scheme, targets) in enumerate(groups)
        },
    }


def _weights(scheme: QuantScheme) -> dict[str, Any]:
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
    return weights


def _recognise(described: Mapping[str, Any]) -> Stated | None:
    if described.get("quant_method") != _METHOD:
        return None
    groups = described.get("config_groups")
    if described.get("format") != _FORMAT or not isinstance(groups, Mapping) or not groups:
        raise SchemeError(
            f"compressed-tensors of format {shown(described.get('format'))} with "
            f"{len(groups) if isinstance(groups, Mapping) else 'no'} groups isn't supported, "
            f"only {_FORMAT!r} with at least one{_ADVICE}"
        )
    for group in groups.values():
        _check_kind(group)
    _KEYS.check(described)
    _check_sparsity(described.get("sparsity_config"))
    plain = described.get("ignore") or []
    if not isinstance(plain, list) or not all(isinstance(name, str) for name in plain):
        raise SchemeError(
            f"the quantization_config has ignore {shown(plain)}; it must be a list of names"
        )
    return _stated(groups, tuple(plain))


def _stated(groups: Mapping[str, Mapping[str, Any]], plain: tuple[str, ...]) -> Stated:
    """Schemes of the modules, by the library's order of targets: names, expressions, classes.

    Expressions are tried in their alphabetical order.

    Raises:
        SchemeError: two groups have the same target, or a target isn't supported.
    """
    schemes: dict[str, QuantScheme] = {}
    for group in groups.values():
        scheme = _scheme(group)
        for target in _targets(group):
            if target in schemes:
                raise SchemeError(
                    f"two groups in config_groups have the target {shown(target)}; leave it in one"
                )
            schemes[target] = scheme
    everything = schemes.pop(_ALL_LINEARS, None)
    rules = [
        ModuleRule(
            f"the target {shown(target)} in config_groups",
            target.removeprefix(_EXPRESSION),
            schemes[target],
            is_expression=target.startswith(_EXPRESSION),
        )
        for target in sorted(schemes, key=lambda target: (target.startswith(_EXPRESSION), target))
    ]
    return Stated(
        everything or _scheme(next(iter(groups.values()))),
        plain,
        any(_is_by_index(group["weights"]) for group in groups.values()),
        rules=tuple(rules),
        others_plain=everything is None,
    )


def _check_kind(group: Any) -> None:
    """Refuse a group in a form that can't be read.

    Raises:
        SchemeError: it isn't an object with weights, or its weights are not integers.
    """
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping):
        raise SchemeError(
            "the group in config_groups of the quantization_config must be an object with weights"
        )
    if weights.get("type") != "int" or weights.get("strategy") not in ("group", "channel"):
        raise SchemeError(
            f"compressed-tensors weights of type {shown(weights.get('type'))} and strategy "
            f"{shown(weights.get('strategy'))} aren't supported, only 'int' with 'group' or "
            "'channel'"
        )
    for keys, section in ((_GROUP_KEYS, group), (_WEIGHT_KEYS, weights)):
        keys.check(section)


def _targets(group: Mapping[str, Any]) -> list[str]:
    targets = group.get("targets")
    if (
        not isinstance(targets, list)
        or not targets
        or not all(isinstance(target, str) for target in targets)
    ):
        raise SchemeError(
            f"compressed-tensors with targets {shown(targets)} isn't supported; they must be a "
            f"list of names, such as [{_ALL_LINEARS!r}]"
        )
    return targets


def _scheme(group: Mapping[str, Any]) -> QuantScheme:
    weights = group["weights"]
    size, symmetric = weights.get("group_size"), weights.get("symmetric", True)
    grouped = weights["strategy"] == "group"
    if type(weights.get("num_bits")) is not int or type(symmetric) is not bool:
        raise SchemeError("compressed-tensors weights need an integer num_bits and symmetric")
    if weights["num_bits"] not in HELD_BITS[_METHOD]:
        raise SchemeError(
            f"compressed-tensors with {weights['num_bits']} bits isn't supported; it must have "
            f"{alternatives(HELD_BITS[_METHOD])}{_ADVICE}"
        )
    fits = type(size) is int if grouped else size in (None, -1)
    if not fits:
        raise SchemeError(
            f"compressed-tensors weights of strategy {weights['strategy']!r} have group_size "
            f"{shown(size)}, which contradicts the strategy"
        )
    return QuantScheme(weights["num_bits"], size if grouped else None, symmetric)


def _is_by_index(weights: Mapping[str, Any]) -> bool:
    return weights["strategy"] == "group" and weights.get("actorder") in _BY_INDEX


def _check_sparsity(described: Any) -> None:
    """Refuse formats that leave zeros out of the stored weights; ``dense`` stores all weights.

    Raises:
        SchemeError: the format is not ``dense``.
    """
    stored_whole = isinstance(described, Mapping) and described.get("format", "dense") == "dense"
    if described is not None and not stored_whole:
        raise SchemeError(
            f"the quantization_config has sparsity_config {shown(described)}, which isn't "
            "supported; its format must be 'dense'"
        )


LAYOUT = PackedLayout(
    name=_METHOD,
    title=_METHOD,
    check=check_compressed_tensors,
    specify=compressed_tensors,
    pack=_pack,
    unpack=_unpack,
    describe=_describe,
    recognise=_recognise,
    group_index="weight_g_idx",
)
