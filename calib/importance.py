"""Sums of squares of the inputs of every matrix, from calibration windows.

Memory: the hidden states of all windows unless they are stored on disk, one block, and the
activations of one batch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from calib.activations import Hidden, Shelf
from calib.capture import batches
from phi3quant.model.architecture import HEAD, LINEARS, Block, block_tensor_name
from phi3quant.model.decoder_block import (
    SequenceContext,
    decoder_block,
    embed,
    linear,
    rms_norm,
    sequence_context,
)
from phi3quant.model.precision import for_products
from phi3quant.model.weights import ModelWeights
from phi3quant.progress import Step


@dataclass(frozen=True)
class InputSquares:
    """Squares of a model's activations over all calibration tokens.

    Attributes:
        sums: sum over tokens of x^2 for the input x of each matrix, FP64 [columns], by the
            matrix' name in the checkpoint.
        tokens: number of tokens in each sum.
    """

    sums: Mapping[str, torch.Tensor]
    tokens: int


def input_squares(
    model: ModelWeights, ids: torch.Tensor, shelf: Shelf, step: Step, *, head: bool
) -> InputSquares:
    """Run windows through a model and sum the squares of its matrices' inputs.

    Args:
        model: the model; its weights are read block by block.
        ids: calibration windows, int64 [windows, length].
        shelf: storage of the hidden states.
        step: called after every block.
        head: whether to include the input of the output matrix.

    Returns:
        Sums for the linears of every block, and for the output matrix.
    """
    config = model.config
    context = sequence_context(config, ids.shape[1])
    hidden = _embedded(model, ids, shelf)
    sums: dict[str, torch.Tensor] = {}
    for index in range(config.num_hidden_layers):
        for name, values in _through(for_products(model.block(index)), context, hidden).items():
            sums[block_tensor_name(index, name)] = values
        step()
    if head:
        norm, eps = model.final_norm(), config.rms_norm_eps
        sums[HEAD] = sum(
            (_squares(rms_norm(batch, norm, eps)) for batch in batches(hidden)),
            torch.zeros(config.hidden_size, dtype=torch.float64),
        )
    return InputSquares(sums, ids.numel())


def _embedded(model: ModelWeights, ids: torch.Tensor, shelf: Shelf) -> Hidden:
    embedding = model.embedding()

    def pieces() -> Iterator[torch.Tensor]:
        for window in torch.split(ids, 1):
            yield embed(embedding, window)

    return shelf.put("importance", pieces(), (*ids.shape, embedding.shape[1]))


def _through(block: Block, context: SequenceContext, hidden: Hidden) -> dict[str, torch.Tensor]:
    """Sums of squares of a block's inputs by linear; ``hidden`` becomes the block's outputs."""
    sums = {name: torch.zeros(block[name].shape[1], dtype=torch.float64) for name in LINEARS}

    def watched(name: str, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        sums[name] += _squares(x)
        return linear(x, weight)

    for batch in batches(hidden):
        batch.copy_(decoder_block(block, context, batch, watched))
    return sums


def _squares(x: torch.Tensor) -> torch.Tensor:
    """Sum of squares over tokens, FP64 [width], of FP32 [..., width]."""
    return x.flatten(0, -2).square().sum(dim=0, dtype=torch.float64)
