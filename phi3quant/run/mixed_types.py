"""Types of single matrices, chosen for the least loss in a file of a target size."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import torch

from calib.sensitivity import Costs, measure
from converters.gguf import writer as gguf_writer
from converters.gguf.names import gguf_name
from converters.gguf.type_policy import fitting_type
from phi3quant.errors import SchemeError
from phi3quant.model.architecture import EMBEDDING, HEAD, tensor_shapes
from phi3quant.model.config import Phi3Config
from phi3quant.model.weights import ModelWeights
from phi3quant.progress import Progress
from phi3quant.quant.codecs.on_device.moves import codec_for
from phi3quant.quant.gram import Gram
from phi3quant.run.bit_allocation import Option, allocate, least_bytes, total_cost

_USUAL = ("Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
TRIED = (*_USUAL, "Q3_K", "IQ4_XS", "IQ4_NL")
"""Types that a matrix may get; those that aren't usual only if the model loses less with them.

In rows that aren't a whole number of superblocks, types are replaced as by llama.cpp, and Q4_1 is
tried as well: it has a minimum for each block as Q4_K has, whose replacement Q5_0 has none."""

# Share of the loss of a block's matrices that remains after compensation and AWQ's scales. Measured
# on a model of 135M parameters with all matrices Q4_0: costs of 0.118 here, a KL of 0.039 in the
# end. Embedding and head are only rounded, as here.
_LEFT = 1 / 3

# Enough to rank matrices, whose costs differ by orders of magnitude.
_WINDOWS, _LENGTH = 8, 256


def mixed_types(
    model: ModelWeights,
    ids: torch.Tensor,
    bits_per_weight: float,
    progress: Progress,
    *,
    compensate: bool,
) -> tuple[str, ...]:
    """Choose types that lower the model's measured loss most for a given size.

    Args:
        model: model in full precision; the device of its tensors computes.
        ids: calibration windows, int64 [windows, length].
        bits_per_weight: limit on the bits of the file's tensors per parameter.
        progress: display of the blocks.
        compensate: whether errors in blocks will be compensated, so that they count less than those
            of embedding and head.

    Returns:
        Overrides for converters.gguf.type_policy.file_type, one for each matrix.

    Raises:
        SchemeError: even the smallest types need more bits.
    """
    config = model.config
    check_target(config, bits_per_weight)
    with progress("measuring sensitivity", 2 * config.num_hidden_layers) as step:
        costs = measure(model, sample_of(ids), _errors, step)
    shares = {name: _LEFT for name in costs if compensate and name not in (EMBEDDING, HEAD)}
    chosen = _allocated(config, _options(config, costs, shares), _budget(config, bits_per_weight))
    return tuple(f"^{re.escape(gguf_name(name))}$={kind}" for name, kind in chosen.items())


def sample_of(ids: torch.Tensor) -> torch.Tensor:
    """The part of calibration windows, int64 [windows, length], that losses are measured on."""
    return ids[:_WINDOWS, :_LENGTH]


def _allocated(
    config: Phi3Config, options: Mapping[str, Sequence[Option]], budget: int
) -> dict[str, str]:
    """Type of each matrix; only the usual ones unless others lose less."""
    chosen = allocate(options, budget)
    shapes = tensor_shapes(config)
    usual = {
        name: [way for way in ways if way.name in _fitting(shapes[name][1], _USUAL)]
        for name, ways in options.items()
    }
    if least_bytes(usual) > budget:
        return chosen
    chosen_usual = allocate(usual, budget)
    lower = total_cost(options, chosen) < total_cost(options, chosen_usual)
    return chosen if lower else chosen_usual


def check_target(config: Phi3Config, bits_per_weight: float) -> None:
    """Refuse a size that no choice of types reaches, before anything is measured.

    Raises:
        SchemeError: even the smallest types need more bits.
    """
    shapes = tensor_shapes(config)
    parameters = sum(math.prod(shape) for shape in shapes.values())
    least = sum(
        min(_nbytes(shapes[name], kind) for kind in _tried(shapes[name][-1]))
        for name in _matrices(config)
    )
    spare = _budget(config, bits_per_weight) - least
    if spare < 0:
        smallest = bits_per_weight - 8 * spare / parameters
        raise SchemeError(
            f"{bits_per_weight:g} bits per weight are too few; with the smallest types this model "
            f"takes {math.ceil(smallest * 100) / 100:g}"
        )


def _errors(
    weight: torch.Tensor, inputs: torch.Tensor | None
) -> Iterator[tuple[str, torch.Tensor]]:
    columns = weight.shape[1]
    if inputs is None:
        gram = Gram(torch.eye(columns, device=weight.device), weight.new_ones(columns), 1)
    else:
        gram = Gram.of(inputs)
    for kind in _tried(columns):
        codec = codec_for(weight.device, gguf_writer.codec(kind))
        yield kind, codec.quantize_fitted(weight, gram).dequantize() - weight


def _options(
    config: Phi3Config, costs: Costs, shares: Mapping[str, float]
) -> dict[str, Sequence[Option]]:
    """Types of each matrix with bytes and costs; ``shares`` scales the costs of some matrices."""
    shapes = tensor_shapes(config)
    return {
        name: [
            Option(kind, _nbytes(shapes[name], kind), cost * shares.get(name, 1.0))
            for kind, cost in matrix_costs.items()
        ]
        for name, matrix_costs in costs.items()
    }


def _tried(columns: int) -> list[str]:
    kinds = _fitting(columns, TRIED)
    return kinds if "Q4_K" in kinds else [*kinds, "Q4_1"]


def _fitting(columns: int, kinds: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(fitting_type(kind, columns).name for kind in kinds))


def _nbytes(shape: Sequence[int], kind: str) -> int:
    return shape[0] * fitting_type(kind, shape[1]).row_bytes(shape[1])


def _matrices(config: Phi3Config) -> list[str]:
    return [name for name, shape in tensor_shapes(config).items() if len(shape) > 1]


def _budget(config: Phi3Config, bits_per_weight: float) -> int:
    """Bytes for the matrices; norms stay F32."""
    shapes = tensor_shapes(config).values()
    parameters = sum(math.prod(shape) for shape in shapes)
    norms = sum(4 * shape[0] for shape in shapes if len(shape) == 1)
    return math.floor(bits_per_weight * parameters / 8) - norms
