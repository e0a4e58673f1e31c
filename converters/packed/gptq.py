"""GPTQ: AutoGPTQ's layout, read by transformers (with gptqmodel), vLLM and ExLlama.

``qweight`` is int32 [in*bits/32, out], packed along each column of out; ``qzeros`` int32
[in/group, out*bits/32], packed along each row; ``scales`` float16 [in/group, out]; ``g_idx`` int32
[in] has the group of each input column.

``checkpoint_format`` gptq (version 1) stores zero points less one, gptq_v2 stores them as they are;
see gptq_zero_points.py.

``dynamic`` in config.json has other settings of single modules: a regular expression for the start
of their names, after ``+:`` or nothing, or after ``-:`` for plain modules. The first that matches
counts.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from converters.packed import bits
from converters.packed.gptq_zero_points import (
    V1,
    V2,
    pack_zero_points,
    unpack_zero_points,
    version_for,
)
from converters.packed.layout import Keys, ModuleRule, PackedLayout, Stated
from converters.packed.sizes import check_gptq, gptq, gptq_split
from converters.packed.tool_keys import AUTOROUND, PLAIN_WEIGHTS, QUANTIZER_KEYS
from converters.widths import HELD_BITS
from phi3quant.errors import SchemeError
from phi3quant.model.config import Phi3Config, shown
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import GROUP_SIZES, QuantScheme
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.units import alternatives

_OTHER, _PLAIN = "+:", "-:"
"""Starts of the expressions for modules with other settings, and for plain modules."""
_PACKING_FORMATS: Mapping[str, str] = {
    "auto_round:auto_gptq": V1,
    "auto_round:gptq": V1,
    "auto_round:gptqmodel": V2,
    "auto_round": V2,
}
"""Version of each ``packing_format`` of AutoRound that has this layout."""

_KEYS = Keys(
    section="the quantization_config for GPTQ",
    free=(
        "quant_method",
        "bits",
        "group_size",
        "sym",
        "desc_act",
        "dynamic",
        "modules_to_not_convert",
        "meta",
        # Choices of the quantizer.
        *QUANTIZER_KEYS,
        "hyb_act",
        "model_file_base_name",
        "model_name_or_path",
        "v2",
        "v2_alpha",
        "v2_memory_device",
        # Choices of kernels.
        "backend",
        "disable_exllama",
        "exllama_config",
        "use_cuda_fp16",
        "use_exllama",
    ),
    fixed={
        **PLAIN_WEIGHTS,
        "format": (V1, V2, None),
        "checkpoint_format": (V1, V2, None),
        "is_marlin_format": (False, None),
        "rotation": (None,),
        "packing_format": (None, *_PACKING_FORMATS),
    },
)
"""Keys that AutoGPTQ, GPTQModel, AutoRound and transformers write for GPTQ."""

_MODULE_KEYS = Keys(
    section="an entry of dynamic",
    free=("bits", "group_size", "sym", "desc_act", *QUANTIZER_KEYS),
    fixed={"pack_dtype": PLAIN_WEIGHTS["pack_dtype"], "adapter": PLAIN_WEIGHTS["adapter"]},
)
"""Keys of an entry of ``dynamic``."""


def _pack(tensor: QuantizedTensor, schemes: MatrixSchemes) -> Mapping[str, torch.Tensor]:
    width, (_, columns) = tensor.scheme.bits, tensor.shape
    groups = torch.arange(columns) // tensor.scheme.group_width(columns)
    return {
        "qweight": bits.pack(tensor.codes, width).T.contiguous(),
        "qzeros": pack_zero_points(tensor, version_for(schemes)),
        "scales": tensor.scales.T.contiguous(),
        "g_idx": groups.to(torch.int32),
    }


def _unpack(
    stored: Mapping[str, torch.Tensor],
    shape: tuple[int, int],
    scheme: QuantScheme,
    version: str | None = None,
) -> QuantizedTensor:
    """Restore a matrix; by default of the version that ``_pack`` writes.

    Raises:
        CheckpointError: as unpack_zero_points.
    """
    rows, columns = shape
    version = version or version_for(MatrixSchemes(scheme))
    zeros = unpack_zero_points(stored["qzeros"], scheme, rows, version)
    codes = bits.unpack(stored["qweight"].T, scheme.bits, columns)
    scales = stored["scales"].T.contiguous()
    return QuantizedTensor(scheme, codes, scales, None if scheme.symmetric else zeros)


def _describe(schemes: MatrixSchemes) -> dict[str, Any]:
    described = {
        "quant_method": "gptq",
        "checkpoint_format": version_for(schemes),
        **_settings(schemes.base),
        "desc_act": False,
        "lm_head": False,
        "pack_dtype": "int32",
    }
    modules = {
        f"{_OTHER}^{_expression(name.removesuffix('.weight'))}$": _settings(scheme)
        for name, scheme in schemes.others.items()
    }
    return described | ({"dynamic": modules} if modules else {})


def _expression(module: str) -> str:
    """Regular expression for a module and for the parts that gptq_split makes of it.

    vLLM looks for the module, and GPTQModel for its parts.
    """
    prefix, split, _ = module.partition("gate_up_proj")
    return re.escape(prefix) + "(gate|up|gate_up)_proj" if split else re.escape(module)


def _settings(scheme: QuantScheme) -> dict[str, Any]:
    return {
        "bits": scheme.bits,
        "group_size": -1 if scheme.group_size is None else scheme.group_size,
        "sym": scheme.symmetric,
    }


def _notes(_config: Phi3Config, schemes: MatrixSchemes) -> Iterator[str]:
    if schemes.others:
        yield (
            "this GPTQ folder has several schemes and stores gate_proj and up_proj apart, as "
            "GPTQModel reads it; transformers doesn't load such folders of a Phi-3 model"
        )


def _recognise(described: Mapping[str, Any]) -> Stated | None:
    method, packing = described.get("quant_method"), described.get("packing_format")
    by_autoround = method == AUTOROUND and packing in tuple(_PACKING_FORMATS)
    if method != "gptq" and not by_autoround:
        return None
    scheme = _scheme(described)
    _KEYS.check(described)
    plain = described.get("modules_to_not_convert") or []
    if not isinstance(plain, list):
        raise SchemeError(f"GPTQ's modules_to_not_convert is {shown(plain)}; it must be a list")
    modules = described.get("dynamic") or {}
    if not isinstance(modules, Mapping):
        raise SchemeError(f"GPTQ's dynamic is {shown(modules)}; it must be an object")
    return Stated(
        scheme,
        tuple(map(str, plain)),
        any(
            section.get("desc_act") is True
            for section in (described, *modules.values())
            if isinstance(section, Mapping)
        ),
        partial(_unpack, version=_version(described)),
        rules=tuple(_rule(described, name, settings) for name, settings in modules.items()),
    )


def _rule(described: Mapping[str, Any], pattern: str, settings: Any) -> ModuleRule:
    """Scheme of the modules that an entry of ``dynamic`` names.

    Raises:
        SchemeError: it isn't supported.
    """
    entry = f"the entry {shown(pattern)} of dynamic"
    if pattern.startswith(_PLAIN):
        return ModuleRule(entry, pattern.removeprefix(_PLAIN), None)
    if not isinstance(settings, Mapping):
        raise SchemeError(f"{entry} is {shown(settings)}; it must be an object")
    replace(_MODULE_KEYS, section=entry).check(settings)
    scheme = _scheme({**described, **settings}, f" in {entry}")
    return ModuleRule(entry, pattern.removeprefix(_OTHER), scheme)


def _scheme(described: Mapping[str, Any], place: str = "") -> QuantScheme:
    """Scheme that a section states; ``place`` names the section in messages.

    Zero points are always stored. Without ``sym`` nothing is assumed about them.

    Raises:
        SchemeError: it isn't supported.
    """
    width, size = described.get("bits"), described.get("group_size")
    if type(width) is not int or width not in HELD_BITS["gptq"]:
        raise SchemeError(
            f"GPTQ with {shown(width)} bits{place} isn't supported; it must have "
            f"{alternatives(HELD_BITS['gptq'])}"
        )
    if type(size) is not int or (size != -1 and size not in GROUP_SIZES):
        raise SchemeError(
            f"GPTQ's group_size {shown(size)}{place} isn't supported; it must be "
            f"{alternatives((*GROUP_SIZES, -1))}"
        )
    for key in ("sym", "desc_act"):
        if not isinstance(described.get(key), bool | None):
            raise SchemeError(
                f"GPTQ's {key} is {shown(described[key])}{place}; it must be true or false"
            )
    return QuantScheme(width, None if size == -1 else size, described.get("sym") is True)


def _version(described: Mapping[str, Any]) -> str:
    """Version of the layout; configurations without one are older than the second.

    Raises:
        SchemeError: two keys contradict each other.
    """
    versions = {
        key: described[key]
        for key in ("checkpoint_format", "format")
        if described.get(key) is not None
    }
    if described.get("packing_format") is not None:
        versions["packing_format"] = _PACKING_FORMATS[described["packing_format"]]
    if len(set(versions.values())) > 1:
        raise SchemeError(
            "the quantization_config for GPTQ has "
            f"{' and '.join(f'{key} {shown(described[key])}' for key in versions)}, which "
            "contradict each other"
        )
    return next(iter(versions.values()), V1)


LAYOUT = PackedLayout(
    name="gptq",
    title="GPTQ",
    check=check_gptq,
    specify=gptq,
    pack=_pack,
    unpack=_unpack,
    describe=_describe,
    recognise=_recognise,
    group_index="g_idx",
    notes=_notes,
    split=gptq_split,
)
