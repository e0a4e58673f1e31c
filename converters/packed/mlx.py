"""MLX: affine groups with real offsets, read by mlx-lm and mlx-swift on Macs and iPhones.

``weight`` is uint32 [out, in*bits/32], packed along each row; ``scales`` and ``biases`` are floats
[out, in/group], and a weight is ``scale * code + bias``. A bias of this project's codes is
``-scale * zero_point``, rounded to FP16 once. Modules without ``scales`` are plain. Embedding and
head can be packed too.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from converters.packed import bits
from converters.packed.layout import Keys, PackedLayout, Stated
from converters.packed.mlx_config import mlx_keys, mlx_notes
from converters.packed.mlx_options import MlxOptions, default_outer
from converters.packed.sizes import MLX_GROUP_SIZES, check_mlx, mlx
from phi3quant.errors import SchemeError
from phi3quant.model.config import shown
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.offset_tensor import OffsetTensor, with_offsets
from phi3quant.quant.scheme import BITS, QuantScheme
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.units import alternatives

_KEYS = Keys(
    section="the quantization for MLX",
    free=("bits", "group_size"),
    fixed={"mode": ("affine",)},
)
"""Keys that mlx-lm writes, apart from names of modules."""


def _pack(tensor: QuantizedTensor, _schemes: MatrixSchemes) -> Mapping[str, torch.Tensor]:
    return _pack_offsets(with_offsets(tensor))


def _pack_offsets(tensor: OffsetTensor) -> Mapping[str, torch.Tensor]:
    return {
        "weight": bits.pack(tensor.codes, tensor.scheme.bits).view(torch.uint32),
        "scales": tensor.scales.half(),
        "biases": tensor.offsets.half(),
    }


def _unpack(
    stored: Mapping[str, torch.Tensor], shape: tuple[int, int], scheme: QuantScheme
) -> QuantizedTensor:
    return _unpack_offsets(stored, shape, scheme).with_zero_points()


def _unpack_offsets(
    stored: Mapping[str, torch.Tensor], shape: tuple[int, int], scheme: QuantScheme
) -> OffsetTensor:
    _, columns = shape
    codes = bits.unpack(stored["weight"].view(torch.int32), scheme.bits, columns)
    return OffsetTensor(scheme, codes, stored["scales"], stored["biases"])


def _describe(schemes: MatrixSchemes) -> dict[str, Any]:
    modules = {
        name.removesuffix(".weight"): _section(scheme) for name, scheme in schemes.others.items()
    }
    return {**_section(schemes.base), **modules}


def _section(scheme: QuantScheme) -> dict[str, Any]:
    return {"group_size": scheme.group_size, "bits": scheme.bits}


def _recognise(described: Mapping[str, Any]) -> Stated | None:
    if "quant_method" in described or not {"bits", "group_size"} <= described.keys():
        return None
    modules = {
        key: value
        for key, value in described.items()
        if isinstance(value, Mapping | bool) and key not in ("bits", "group_size", "mode")
    }
    default = _scheme({key: described[key] for key in described.keys() - modules.keys()}, "")
    schemes = {
        name: default if value is True else _scheme(value, f" of {name}")
        for name, value in modules.items()
        if value is not False
    }
    plain = tuple(name for name, value in modules.items() if value is False)
    return Stated(default, plain, schemes=schemes, lists_plain=False)


def _scheme(described: Mapping[str, Any], place: str) -> QuantScheme:
    """Scheme that a section states; ``place`` names the section in messages.

    Raises:
        SchemeError: it isn't supported.
    """
    mode = described.get("mode", "affine")
    if mode != "affine":
        raise SchemeError(f"MLX's mode {shown(mode)}{place} isn't supported; it must be 'affine'")
    width, size = described.get("bits"), described.get("group_size")
    if type(width) is not int or width not in BITS:
        raise SchemeError(
            f"MLX with {shown(width)} bits{place} isn't supported; it must have "
            f"{alternatives(BITS)}"
        )
    if type(size) is not int or size not in MLX_GROUP_SIZES:
        raise SchemeError(
            f"MLX's group_size {shown(size)}{place} isn't supported; it must be "
            f"{alternatives(MLX_GROUP_SIZES)}"
        )
    _KEYS.check(described)
    # Offsets are always stored, so the scheme counts as asymmetric.
    return QuantScheme(width, size, symmetric=False)


LAYOUT = PackedLayout(
    name="mlx",
    title="MLX",
    check=check_mlx,
    specify=mlx,
    pack=_pack,
    unpack=_unpack,
    describe=_describe,
    recognise=_recognise,
    config_keys=("quantization", "quantization_config"),
    adapt_config=mlx_keys,
    notes=mlx_notes,
    library="mlx",
    pack_offsets=_pack_offsets,
    unpack_offsets=_unpack_offsets,
    outer=default_outer,
)


def mlx_layout(options: MlxOptions) -> PackedLayout:
    """The layout with other types of embedding and head than the default."""
    return replace(LAYOUT, outer=options.schemes)
