"""Bits of single matrices: entries such as ``down_proj=int8``."""

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

from phi3quant.errors import SchemeError
from phi3quant.model.architecture import SPLITS, block_prefix, block_tensor_name, linear_shapes
from phi3quant.model.config import Phi3Config
from phi3quant.quant.matrix_schemes import MatrixSchemes, matrix_schemes
from phi3quant.quant.scheme import BITS, QuantScheme

WIDTHS = {f"int{bits}": bits for bits in BITS}
"""Bits by the name of a type."""

_WEIGHT = ".weight"


def schemes_with_overrides(
    scheme: QuantScheme, overrides: Sequence[str], config: Phi3Config
) -> MatrixSchemes:
    """Schemes of a model's matrices, which differ only in bits.

    Args:
        scheme: scheme of all matrices without an override.
        overrides: entries ``PATTERN=TYPE``, where TYPE is a key of WIDTHS; the regular expression
            is searched in names of modules, such as ``model.layers.3.mlp.down_proj``. The first
            pattern that matches counts.
        config: configuration of the model.

    Raises:
        SchemeError: an override can't be parsed, matches no matrix, or matches a part of one.
    """
    parsed = parse_overrides(overrides)
    modules = {
        block_tensor_name(index, key): (index, key)
        for index in range(config.num_hidden_layers)
        for key in linear_shapes(config)
    }
    for pattern, _ in parsed:
        _check_matches(pattern, modules)
    schemes = {}
    for name in modules:
        module = name.removesuffix(_WEIGHT)
        bits = next((bits for pattern, bits in parsed if pattern.search(module)), scheme.bits)
        schemes[name] = replace(scheme, bits=bits)
    return matrix_schemes(schemes)


def parse_overrides(overrides: Sequence[str]) -> list[tuple[re.Pattern[str], int]]:
    """Patterns and bits of ``overrides``.

    Raises:
        SchemeError: an override can't be parsed.
    """
    listed = f"{', '.join(WIDTHS)}, and GGUF's types if a GGUF type is chosen for the file"
    parsed = (pattern_and_type(text, WIDTHS, "down_proj=int8", listed) for text in overrides)
    return [(pattern, WIDTHS[kind]) for pattern, kind in parsed]


def exact_override(name: str, bits: int) -> str:
    """Override for one matrix by its name in the checkpoint."""
    return f"^{re.escape(name.removesuffix(_WEIGHT))}$=int{bits}"


def pattern_and_type(
    text: str, types: Collection[str], example: str, listed: str
) -> tuple[re.Pattern[str], str]:
    """Pattern and type of an override ``PATTERN=TYPE``.

    Args:
        text: the override, with its type in any case.
        types: names of types.
        example: an override, for messages.
        listed: the types as text, for messages.

    Raises:
        SchemeError: the type is unknown, or the pattern is not a regular expression.
    """
    pattern, _, entered = text.rpartition("=")
    kind = next((name for name in types if name.lower() == entered.lower()), None)
    if not pattern or kind is None:
        raise SchemeError(f"{text!r} is not PATTERN=TYPE, such as {example}; types are {listed}")
    try:
        return re.compile(pattern), kind
    except re.error as error:
        raise SchemeError(f"{pattern!r} is not a regular expression: {error}") from None


def _check_matches(pattern: re.Pattern[str], modules: dict[str, tuple[int, str]]) -> None:
    """Refuse a pattern that matches no matrix, or only some of the rows that share a matrix."""
    matches = False
    for name, (index, key) in modules.items():
        module = name.removesuffix(_WEIGHT)
        matches |= pattern.search(module) is not None
        parts = [
            block_prefix(index) + role.name.removesuffix(_WEIGHT) for role in SPLITS.get(key, ())
        ]
        hits = [part.rpartition(".")[2] for part in parts if pattern.search(part)]
        if hits and len(hits) < len(parts):
            raise SchemeError(
                f"{pattern.pattern!r} matches {' and '.join(hits)}, only a part of {module}, "
                f"which has one type; write {key}"
            )
    if not matches:
        raise SchemeError(
            f"no matrix's name matches {pattern.pattern!r}; names look like "
            "model.layers.0.self_attn.qkv_proj and model.layers.0.mlp.down_proj"
        )
