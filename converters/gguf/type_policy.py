"""Block types of tensors: ``Q4_K_M`` and other recipes as a table.

The rules are those of llama.cpp (llama-quant.cpp) that affect Phi-3: norms stay F32, the head (or a
tied embedding) gets more bits than the rest, and the K mixes spend more bits on some layers.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gguf import LlamaFileType

from converters.gguf.names import block_name, outer_name
from phi3quant.errors import SchemeError
from phi3quant.model.architecture import EMBEDDING, HEAD
from phi3quant.model.config import Phi3Config
from phi3quant.quant.ggml_types import BLOCK_SIZES, BlockSize
from phi3quant.quant.scheme_overrides import pattern_and_type

_FALLBACK: Mapping[str, str] = {
    "Q3_K": "Q4_0",
    "IQ4_XS": "IQ4_NL",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
"""Replacements of types in superblocks, for rows that aren't a whole number of superblocks."""

_FAST_ON_PHONES = ("Q4_0", "IQ4_NL", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
"""Types that llama.cpp rearranges for ARM's dot products when it loads a file."""

LayerRule = Callable[[int, Phi3Config], bool]
"""Predicate of a block's index: whether the block gets the exceptional type."""
Exceptions = Mapping[str, tuple[tuple[LayerRule, str], ...]]
"""Rules with types by linear (architecture.LINEARS); the first rule that holds counts."""


@dataclass(frozen=True)
class Limits:
    """Limits of a runtime on the files that it loads.

    Attributes:
        profile: name of the limits, for messages.
        types: block types that a file may hold.
        session_bytes: weights that the runtime holds in one session; None for no limit.
    """

    profile: str
    types: tuple[str, ...]
    session_bytes: int | None = None


@dataclass(frozen=True)
class FileType:
    """Recipe for the types in a file.

    Attributes:
        name: name of the recipe, as in names of files.
        number: value of general.file_type.
        base: type of all matrices without a rule, including the embedding.
        head: type of the output matrix, or of a tied embedding.
        exceptions: types of some linears in some blocks.
        uncalibrated: exceptions that apply besides where scales are chosen without activations.
        overrides: patterns of tensor names (names.py) with types that replace the others; the
            first pattern that matches counts.
        limits: limits that the file must keep; None for none.
    """

    name: str
    number: LlamaFileType
    base: str
    head: str
    exceptions: Exceptions = field(default_factory=dict)
    uncalibrated: Exceptions = field(default_factory=dict)
    overrides: tuple[tuple[re.Pattern[str], str], ...] = ()
    limits: Limits | None = None


def _always(_index: int, _config: Phi3Config) -> bool:
    return True


def _first(count: int) -> LayerRule:
    return lambda index, _config: index < count


def _first_part(divisor: int) -> LayerRule:
    return lambda index, config: index < config.num_hidden_layers // divisor


def _outer_and_every_third(index: int, config: Phi3Config) -> bool:
    count = config.num_hidden_layers
    eighth = count // 8
    return index < eighth or index >= 7 * count // 8 or (index - eighth) % 3 == 2


def _four_queries_per_key(_index: int, config: Phi3Config) -> bool:
    return config.queries_per_key_value >= 4


def _plain(number: LlamaFileType, base: str, head: str | None = None) -> FileType:
    return FileType(base, number, base, head or base)


def _more_in_outer_blocks(name: str, number: LlamaFileType, base: str) -> FileType:
    rules = ((_outer_and_every_third, "Q6_K"),)
    return FileType(name, number, base, "Q6_K", {"qkv_proj": rules, "down_proj": rules})


def _table(name: str, number: LlamaFileType) -> FileType:
    return FileType(
        name,
        number,
        name,
        "Q6_K",
        {"qkv_proj": ((_four_queries_per_key, "Q5_K"),)},
        {"down_proj": ((_first_part(8), "Q5_K"),)},
    )


_Files = LlamaFileType
FILE_TYPES: Mapping[str, FileType] = {
    kind.name: kind
    for kind in (
        _plain(_Files.ALL_F32, "F32"),
        _plain(_Files.MOSTLY_F16, "F16"),
        _plain(_Files.MOSTLY_BF16, "BF16"),
        _plain(_Files.MOSTLY_Q8_0, "Q8_0"),
        _plain(_Files.MOSTLY_Q4_0, "Q4_0", "Q6_K"),
        _plain(_Files.MOSTLY_Q4_1, "Q4_1", "Q6_K"),
        _plain(_Files.MOSTLY_Q5_0, "Q5_0", "Q6_K"),
        _plain(_Files.MOSTLY_Q5_1, "Q5_1", "Q6_K"),
        FileType("Q3_K_S", _Files.MOSTLY_Q3_K_S, "Q3_K", "Q6_K"),
        FileType(
            "Q3_K_M",
            _Files.MOSTLY_Q3_K_M,
            "Q3_K",
            "Q6_K",
            {
                "qkv_proj": ((_first(2), "Q5_K"), (_always, "Q4_K")),
                "o_proj": ((_always, "Q4_K"),),
                "down_proj": ((_first_part(16), "Q5_K"), (_always, "Q4_K")),
            },
        ),
        FileType(
            "Q3_K_L",
            _Files.MOSTLY_Q3_K_L,
            "Q3_K",
            "Q6_K",
            dict.fromkeys(("qkv_proj", "o_proj", "down_proj"), ((_always, "Q5_K"),)),
        ),
        _table("IQ4_XS", _Files.MOSTLY_IQ4_XS),
        _table("IQ4_NL", _Files.MOSTLY_IQ4_NL),
        FileType(
            "Q4_K_S",
            _Files.MOSTLY_Q4_K_S,
            "Q4_K",
            "Q6_K",
            {"qkv_proj": ((_first(4), "Q5_K"),), "down_proj": ((_first_part(8), "Q5_K"),)},
        ),
        _more_in_outer_blocks("Q4_K_M", _Files.MOSTLY_Q4_K_M, "Q4_K"),
        _more_in_outer_blocks("Q5_K_M", _Files.MOSTLY_Q5_K_M, "Q5_K"),
        _plain(_Files.MOSTLY_Q6_K, "Q6_K"),
    )
}
"""Recipes by name; ``--type`` accepts the names in any case."""


MIXED = FileType("MIXED", _Files.MOSTLY_Q4_0, "Q4_0", "Q6_K")
"""Recipe for files whose overrides set every type (run/mixed_types.py); see sizes.file_number."""


def file_type(name: str, overrides: Sequence[str] = (), *, calibrated: bool = False) -> FileType:
    """Look up a recipe, and override the types of matching tensors.

    As in llama.cpp without an importance matrix, some recipes spend more bits on a few matrices if
    nothing is calibrated.

    Args:
        name: a key of FILE_TYPES, in any case.
        overrides: entries ``PATTERN=TYPE``; the regular expression is searched in llama.cpp's names
            of matrices, such as ``blk.3.ffn_down.weight``.
        calibrated: whether scales are chosen by the activations of a calibration text.

    Raises:
        SchemeError: no recipe has that name, or an override can't be parsed.
    """
    recipe = MIXED if name.upper() == MIXED.name else FILE_TYPES.get(name.upper())
    if recipe is None:
        known = ", ".join(FILE_TYPES)
        raise SchemeError(f"there is no GGUF type {name!r}; choose from {known}")
    exceptions = recipe.exceptions if calibrated else {**recipe.exceptions, **recipe.uncalibrated}
    listed = ", ".join(BLOCK_SIZES)
    patterns = tuple(
        pattern_and_type(text, BLOCK_SIZES, "ffn_down=q8_0", listed) for text in overrides
    )
    return replace(recipe, exceptions=exceptions, overrides=patterns)


def check_overrides(kind: FileType, names: Iterable[str]) -> None:
    """Refuse overrides whose pattern matches no tensor.

    Raises:
        SchemeError: there is one.
    """
    known = list(names)
    for pattern, _ in kind.overrides:
        if not any(pattern.search(name) for name in known):
            raise SchemeError(
                f"no tensor's name matches {pattern.pattern!r}; names look like "
                "blk.0.attn_qkv.weight, blk.0.ffn_down.weight and token_embd.weight"
            )


def phone_note(name: str) -> str | None:
    """Warning against a type that is slow on phones; None for types that are fast.

    Raises:
        SchemeError: as file_type.
    """
    base = file_type(name).base
    if base in _FAST_ON_PHONES:
        return None
    return f"{base} has no fast path on ARM phones; Q4_0, IQ4_NL, Q4_K_M and Q8_0 have one"


def linear_type(
    kind: FileType, name: str, index: int, config: Phi3Config, columns: int
) -> BlockSize:
    """Type of linear ``name`` (architecture.LINEARS) in block ``index``, with rows of ``columns``.

    Raises:
        SchemeError: no type fits the rows.
    """
    rules = kind.exceptions.get(name, ())
    chosen = next((other for rule, other in rules if rule(index, config)), kind.base)
    return fitting_type(_overridden(kind, block_name(index, name), chosen), columns)


def matrix_type(kind: FileType, name: str, config: Phi3Config) -> BlockSize:
    """Type of architecture.EMBEDDING or HEAD.

    Raises:
        SchemeError: no type fits the rows.
    """
    is_head = name == HEAD or (name == EMBEDDING and config.tie_word_embeddings)
    chosen = kind.head if is_head else kind.base
    return fitting_type(_overridden(kind, outer_name(name), chosen), config.hidden_size)


def _overridden(kind: FileType, name: str, chosen: str) -> str:
    return next((other for pattern, other in kind.overrides if pattern.search(name)), chosen)


def fitting_type(name: str, columns: int) -> BlockSize:
    """Type ``name`` if it fits rows of ``columns``, otherwise llama.cpp's replacement.

    Raises:
        SchemeError: no type fits the rows.
    """
    kind = BLOCK_SIZES[name]
    if columns % kind.block:
        kind = BLOCK_SIZES[_FALLBACK.get(name, name)]
    if columns % kind.block:
        raise SchemeError(
            f"rows of {columns} weights are not a whole number of {kind.name}'s blocks of "
            f"{kind.block}; choose F16 or BF16"
        )
    return kind
