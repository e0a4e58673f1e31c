"""Which tensor gets which block type: what ``Q4_K_M`` and the like mean, as a table.

The rules are llama.cpp's (llama-quant.cpp), as far as they touch Phi-3: norms stay F32, the head
(or a tied embedding) gets more bits than the rest, and the K mixes spend more on some layers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gguf import LlamaFileType

from phi3quant.codecs.blocks import TYPES, BlockType
from phi3quant.config import Phi3Config
from phi3quant.errors import SchemeError
from phi3quant.layout import EMBEDDING, HEAD

_FALLBACK: Mapping[str, str] = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What takes a K-quant's place in rows that aren't a whole number of superblocks."""

_FAST_ON_PHONES = ("Q4_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
"""What llama.cpp rearranges for ARM's dot products when it loads a file."""

LayerRule = Callable[[int, int], bool]
"""Whether block ``index`` of ``count`` gets the exceptional type."""


@dataclass(frozen=True)
class FileType:
    """A recipe for a whole file.

    Attributes:
        number: general.file_type.
        base: the type of all matrices without a rule, the embedding among them.
        head: of the output matrix, or of a tied embedding.
        exceptions: per linear (layout.LINEARS), in which blocks it gets another type, and which.
    """

    number: LlamaFileType
    base: str
    head: str
    exceptions: Mapping[str, tuple[LayerRule, str]]


def _first_four(index: int, _count: int) -> bool:
    return index < 4


def _first_eighth(index: int, count: int) -> bool:
    return index < count // 8


def _outer_and_every_third(index: int, count: int) -> bool:
    eighth = count // 8
    return index < eighth or index >= 7 * count // 8 or (index - eighth) % 3 == 2


def _plain(number: LlamaFileType, base: str, head: str | None = None) -> FileType:
    return FileType(number, base, head or base, {})


_Files = LlamaFileType
FILE_TYPES: Mapping[str, FileType] = {
    "F32": _plain(_Files.ALL_F32, "F32"),
    "F16": _plain(_Files.MOSTLY_F16, "F16"),
    "BF16": _plain(_Files.MOSTLY_BF16, "BF16"),
    "Q8_0": _plain(_Files.MOSTLY_Q8_0, "Q8_0"),
    "Q4_0": _plain(_Files.MOSTLY_Q4_0, "Q4_0", "Q6_K"),
    "Q4_1": _plain(_Files.MOSTLY_Q4_1, "Q4_1", "Q6_K"),
    "Q5_0": _plain(_Files.MOSTLY_Q5_0, "Q5_0", "Q6_K"),
    "Q5_1": _plain(_Files.MOSTLY_Q5_1, "Q5_1", "Q6_K"),
    "Q4_K_S": FileType(
        _Files.MOSTLY_Q4_K_S,
        "Q4_K",
        "Q6_K",
        {"qkv_proj": (_first_four, "Q5_K"), "down_proj": (_first_eighth, "Q5_K")},
    ),
    "Q4_K_M": FileType(
        _Files.MOSTLY_Q4_K_M,
        "Q4_K",
        "Q6_K",
        {
            "qkv_proj": (_outer_and_every_third, "Q6_K"),
            "down_proj": (_outer_and_every_third, "Q6_K"),
        },
    ),
    "Q5_K_M": FileType(
        _Files.MOSTLY_Q5_K_M,
        "Q5_K",
        "Q6_K",
        {
            "qkv_proj": (_outer_and_every_third, "Q6_K"),
            "down_proj": (_outer_and_every_third, "Q6_K"),
        },
    ),
    "Q6_K": _plain(_Files.MOSTLY_Q6_K, "Q6_K"),
}
"""Recipes by the name that ``--type`` takes, in any case."""


def file_type(name: str) -> FileType:
    """Look a recipe up.

    Raises:
        SchemeError: there is none of that name.
    """
    found = FILE_TYPES.get(name.upper())
    if found is None:
        known = ", ".join(FILE_TYPES)
        raise SchemeError(f"there is no GGUF type {name!r}; choose from {known}")
    return found


def phone_note(name: str) -> str | None:
    """What to tell who makes a file of this kind for a phone; None if it is a good choice.

    Raises:
        SchemeError: as file_type.
    """
    base = file_type(name).base
    if base in _FAST_ON_PHONES:
        return None
    return f"{base} has no fast path on ARM phones; Q4_0, Q4_K_M and Q8_0 have one"


def linear_type(
    kind: FileType, name: str, index: int, config: Phi3Config, columns: int
) -> BlockType:
    """The type of linear ``name`` (layout.LINEARS) in block ``index``, with rows of ``columns``.

    Raises:
        SchemeError: no type fits the rows.
    """
    rule = kind.exceptions.get(name)
    chosen = kind.base
    if rule is not None and rule[0](index, config.num_hidden_layers):
        chosen = rule[1]
    return _fitting(chosen, columns)


def matrix_type(kind: FileType, name: str, config: Phi3Config) -> BlockType:
    """The type of layout.EMBEDDING or layout.HEAD.

    Raises:
        SchemeError: no type fits the rows.
    """
    is_head = name == HEAD or (name == EMBEDDING and config.tie_word_embeddings)
    return _fitting(kind.head if is_head else kind.base, config.hidden_size)


def _fitting(name: str, columns: int) -> BlockType:
    kind = TYPES[name]
    if columns % kind.block:
        kind = TYPES[_FALLBACK.get(name, name)]
    if columns % kind.block:
        raise SchemeError(
            f"rows of {columns} weights are not a whole number of {kind.name}'s blocks of "
            f"{kind.block}; choose F16 or BF16"
        )
    return kind
