"""Contents of packed checkpoints as names, types and shapes, without loading torch."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from converters.packed.mlx_options import default_outer
from converters.widths import check_bits
from phi3quant.disk.tensor_plan import PlannedTensor
from phi3quant.errors import SchemeError
from phi3quant.model.architecture import (
    block_tensor_name,
    linear_shapes,
    part_shapes,
    tensor_shapes,
)
from phi3quant.model.config import Phi3Config
from phi3quant.quant.matrix_schemes import MatrixSchemes, check_groups
from phi3quant.quant.scheme import WHOLE_ROW, QuantScheme
from phi3quant.units import alternatives, count

_AWQ_PER_WORD = 8
_WORD_BITS = 32
MLX_GROUP_SIZES = (32, 64, 128)

MatrixPlan = Callable[[int, int, QuantScheme], list[PlannedTensor]]
"""Function of (rows, columns, scheme) that plans a matrix' tensors; their names are endings."""

SplitMatrices = Mapping[str, Mapping[str, tuple[int, int]]]
"""Shapes of the parts of matrices that are stored in parts, by name, in the order of their rows."""

Split = Callable[[Phi3Config, MatrixSchemes], SplitMatrices]
"""Function that chooses the matrices to store in parts."""

OuterSchemes = Callable[[Phi3Config, QuantScheme], Mapping[str, QuantScheme]]
"""Function of (configuration, scheme of the blocks) that gives schemes of embedding and head."""


def plain_outer(_config: Phi3Config, _scheme: QuantScheme) -> Mapping[str, QuantScheme]:
    """Leave embedding and head plain."""
    return {}


def never_split(_config: Phi3Config, _schemes: MatrixSchemes) -> SplitMatrices:
    """Store all matrices whole."""
    return {}


def words_for(count: int, bits: int) -> int:
    """Number of 32-bit words that hold ``count`` values of ``bits`` bits."""
    return -(-count * bits // _WORD_BITS)


def compressed_tensors(rows: int, columns: int, scheme: QuantScheme) -> list[PlannedTensor]:
    """Plan a matrix in the layout of compressed_tensors.py."""
    groups = columns // scheme.group_width(columns)
    planned = [
        PlannedTensor("weight_packed", "I32", (rows, words_for(columns, scheme.bits))),
        PlannedTensor("weight_scale", "F16", (rows, groups)),
        PlannedTensor("weight_shape", "I64", (2,)),
    ]
    if not scheme.symmetric:
        words = words_for(rows, scheme.bits)
        planned.append(PlannedTensor("weight_zero_point", "I32", (words, groups)))
    return planned


def check_compressed_tensors(schemes: MatrixSchemes, config: Phi3Config) -> None:
    """Refuse schemes that compressed-tensors can't hold.

    Raises:
        SchemeError: bits other than 4 and 8, or groups that don't fill rows.
    """
    check_bits("compressed-tensors", "compressed-tensors", schemes)
    check_groups(schemes, config)


def awq_gemm(rows: int, columns: int, scheme: QuantScheme) -> list[PlannedTensor]:
    """Plan a matrix in the layout of awq_gemm.py."""
    groups = columns // scheme.group_width(columns)
    return [
        PlannedTensor("qweight", "I32", (columns, rows // _AWQ_PER_WORD)),
        PlannedTensor("qzeros", "I32", (groups, rows // _AWQ_PER_WORD)),
        PlannedTensor("scales", "F16", (groups, rows)),
    ]


def check_awq_gemm(schemes: MatrixSchemes, config: Phi3Config) -> None:
    """Refuse schemes and models that AWQ-GEMM can't hold.

    Raises:
        SchemeError: several schemes, bits other than 4, groups that don't fill rows, or rows that
            don't fill words.
    """
    if schemes.others:
        name, scheme = next(iter(schemes.others.items()))
        raise SchemeError(
            f"AWQ-GEMM has one scheme for all matrices, and {name} is {scheme} while the others "
            f"are {schemes.base}; export compressed-tensors instead"
        )
    check_bits("awq-gemm", "AWQ-GEMM", schemes)
    check_groups(schemes, config)
    for name, (rows, _) in linear_shapes(config).items():
        if rows % _AWQ_PER_WORD:
            raise SchemeError(
                f"AWQ-GEMM packs {_AWQ_PER_WORD} output rows per word, and {name} has {rows}; "
                "export compressed-tensors instead"
            )


def gptq(rows: int, columns: int, scheme: QuantScheme) -> list[PlannedTensor]:
    """Plan a matrix in the layout of gptq.py."""
    groups = columns // scheme.group_width(columns)
    return [
        PlannedTensor("qweight", "I32", (words_for(columns, scheme.bits), rows)),
        PlannedTensor("qzeros", "I32", (groups, words_for(rows, scheme.bits))),
        PlannedTensor("scales", "F16", (groups, rows)),
        PlannedTensor("g_idx", "I32", (columns,)),
    ]


def gptq_split(config: Phi3Config, schemes: MatrixSchemes) -> SplitMatrices:
    """Matrices that GPTQ folders of several schemes store in parts.

    GPTQModel, the reader of such folders, has gate_proj and up_proj where Phi-3 has gate_up_proj.
    transformers has gate_up_proj, but reads only folders of one scheme.
    """
    indices = range(config.num_hidden_layers) if schemes.others else ()
    return {
        block_tensor_name(index, "gate_up_proj"): part_shapes(index, "gate_up_proj", config)
        for index in indices
    }


def check_gptq(schemes: MatrixSchemes, config: Phi3Config) -> None:
    """Refuse schemes and models that GPTQ's layout can't hold.

    Raises:
        SchemeError: bits other than 3, 4 and 8, groups that don't fill rows, or rows or columns
            that don't fill words.
    """
    check_bits("gptq", "GPTQ", schemes)
    check_groups(schemes, config)
    for scheme, shapes in schemes.shapes(config).items():
        if schemes.others and "gate_up_proj" in shapes:
            shapes["gate_proj"] = (config.intermediate_size, config.hidden_size)
        words = scheme.bits // math.gcd(_WORD_BITS, scheme.bits)
        together = words * _WORD_BITS // scheme.bits
        for name, shape in shapes.items():
            if any(size % together for size in shape):
                raise SchemeError(
                    f"GPTQ packs {together} rows and columns into {count(words, 'word')}, and "
                    f"{name} is {' x '.join(map(str, shape))}; export another format instead"
                )


def mlx(rows: int, columns: int, scheme: QuantScheme) -> list[PlannedTensor]:
    """Plan a matrix in the layout of mlx.py."""
    groups = columns // scheme.group_width(columns)
    return [
        PlannedTensor("weight", "U32", (rows, words_for(columns, scheme.bits))),
        PlannedTensor("scales", "F16", (rows, groups)),
        PlannedTensor("biases", "F16", (rows, groups)),
    ]


def check_mlx(schemes: MatrixSchemes, config: Phi3Config) -> None:
    """Refuse schemes and models that mlx-lm can't load.

    Raises:
        SchemeError: groups of other sizes or that don't fill rows, or heads of an unusual size.
    """
    for scheme in schemes.distinct:
        check_mlx_scheme(scheme)
    check_groups(schemes, config)
    if config.query_rows != config.hidden_size:
        raise SchemeError(
            f"mlx-lm computes the size of a head as hidden_size / num_attention_heads, and this "
            f"model has head_dim {config.head_dim}; export compressed-tensors instead"
        )


def check_mlx_scheme(scheme: QuantScheme) -> None:
    """Refuse a scheme that MLX can't hold.

    Raises:
        SchemeError: other bits than those of quant.scheme.BITS, or groups of another size.
    """
    check_bits("mlx", "MLX", MatrixSchemes(scheme))
    if scheme.group_size not in MLX_GROUP_SIZES:
        size = WHOLE_ROW if scheme.group_size is None else scheme.group_size
        raise SchemeError(
            f"MLX has groups of {alternatives(MLX_GROUP_SIZES)}, not {size}; choose one of "
            "them, or export compressed-tensors instead"
        )


@dataclass(frozen=True)
class PackedSizes:
    """Sizes of a packed layout.

    Attributes:
        matrix: plans the tensors of a matrix.
        check: raises SchemeError if the layout can't hold schemes or a model.
        outer: gives the schemes of embedding and head by name, as far as they are packed.
        library: name of the library in the files.
        split: chooses the matrices that are stored in parts.
    """

    matrix: MatrixPlan
    check: Callable[[MatrixSchemes, Phi3Config], None]
    outer: OuterSchemes = plain_outer
    library: str = "pt"
    split: Split = never_split


PACKED: Mapping[str, PackedSizes] = {
    "compressed-tensors": PackedSizes(compressed_tensors, check_compressed_tensors),
    "awq-gemm": PackedSizes(awq_gemm, check_awq_gemm),
    "gptq": PackedSizes(gptq, check_gptq, split=gptq_split),
    "mlx": PackedSizes(mlx, check_mlx, default_outer, "mlx"),
}
"""Sizes of each packed layout by name, with its default options."""


def packed_tensors(
    config: Phi3Config,
    schemes: MatrixSchemes,
    matrix: MatrixPlan,
    plain: Collection[str] = (),
    outer: Mapping[str, QuantScheme] | None = None,
    split: SplitMatrices | None = None,
) -> list[PlannedTensor]:
    """All tensors of a packed checkpoint, in the order of writing; unpacked ones are FP16.

    Args:
        config: configuration of the model.
        schemes: schemes of the blocks' matrices.
        matrix: plan of a packed matrix.
        plain: names of the blocks' matrices that are not packed.
        outer: schemes of embedding and head by name, as far as they are packed.
        split: matrices of the blocks that are stored in parts.
    """
    names = (
        block_tensor_name(index, key)
        for index in range(config.num_hidden_layers)
        for key in linear_shapes(config)
    )
    packed = {name: schemes.scheme(name) for name in names if name not in plain}
    packed |= outer or {}
    planned = []
    for name, shape in tensor_shapes(config).items():
        if name not in packed:
            planned.append(PlannedTensor(name, "F16", shape))
            continue
        for part, (rows, columns) in (split or {}).get(name, {name: shape}).items():
            planned.extend(
                PlannedTensor(packed_name(part, each.name), each.dtype, each.shape)
                for each in matrix(rows, columns, packed[name])
            )
    return planned


def packed_name(name: str, ending: str) -> str:
    """Name of one of the tensors that hold matrix ``name``."""
    return f"{name.removesuffix('weight')}{ending}"
