"""What the error of each matrix costs the whole model, from one backward pass.

To second order, an error dy in the outputs of a matrix moves the predictions by a divergence of
half the mean of (g . dy)^2: g is the gradient of the log-probability of tokens that are drawn from
the model's own predictions, whose second moments are the Fisher information (Amari, 1998). Errors
of different tokens are taken for independent. The pass goes block by block, as everything here.

Memory: the hidden states of all tokens before every block, one block, and its activations.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from phi3quant.model.architecture import EMBEDDING, HEAD, Block, block_tensor_name
from phi3quant.model.decoder_block import (
    SequenceContext,
    decoder_block,
    embed,
    linear,
    logits,
    rms_norm,
    sequence_context,
)
from phi3quant.model.weights import ModelWeights

# Rows of logits that exist at once.
_PIECE = 128

Errors = Iterable[tuple[str, torch.Tensor]]
"""Candidates and what they make of a matrix less the matrix, FP32 [rows, columns]: one at a time,
since each is as large as the matrix."""

Candidates = Callable[[torch.Tensor, torch.Tensor | None], Errors]
"""The errors of the candidates for a matrix, from FP32 [rows, columns] and its inputs
[tokens, columns]; None for the embedding, which has none."""

Costs = Mapping[str, Mapping[str, float]]
"""By the matrix' name and by candidate, KL(original || quantized) in nats per token."""


@dataclass(frozen=True)
class _Watched:
    """One linear on the way through its block and back.

    Attributes:
        inputs: FP32 [tokens, in].
        gradients: FP32 [tokens, out], of the log-probability of what was drawn.
    """

    inputs: torch.Tensor
    gradients: torch.Tensor


def measure(
    model: ModelWeights,
    ids: torch.Tensor,
    candidates: Candidates,
    tell: Callable[[int], None],
    seed: int = 0,
) -> Costs:
    """Measure what each candidate for each matrix costs, all other matrices left alone.

    Args:
        model: in full precision.
        ids: int64 [windows, length] of text.
        candidates: gives the errors to measure.
        tell: is told of the blocks done, each one twice.
        seed: of the tokens that are drawn.

    Returns:
        For every linear, the embedding and the head; of a tied pair, under the embedding's name.
    """
    config = model.config
    context = sequence_context(config, ids.shape[1])
    embedding = model.embedding()
    states = [embed(embedding, ids)]
    for index in range(config.num_hidden_layers):
        states.append(decoder_block(model.block(index), context, states[-1]))
        tell(1)
    head_costs, gradient = _through_head(model, states.pop(), candidates, seed)
    costs: dict[str, Mapping[str, float]] = {}
    for index in reversed(range(config.num_hidden_layers)):
        block = model.block(index)
        gradient, watched = _through_block(block, context, states.pop(), gradient)
        for name, seen in watched.items():
            full = block_tensor_name(index, name)
            errors = candidates(block[name], seen.inputs)
            costs[full] = {
                candidate: _divergence(functional.linear(seen.inputs, error) * seen.gradients)
                for candidate, error in errors
            }
        tell(1)
    flat, gradients = ids.flatten(), gradient.flatten(0, 1)
    errors = candidates(embedding, None)
    costs[EMBEDDING] = {
        candidate: _divergence(error[flat] * gradients) for candidate, error in errors
    }
    if config.tie_word_embeddings:
        costs[EMBEDDING] = {
            candidate: cost + head_costs[candidate] for candidate, cost in costs[EMBEDDING].items()
        }
    else:
        costs[HEAD] = head_costs
    return costs


def _divergence(parts: torch.Tensor) -> float:
    """Half the mean of the squared sums of rows [tokens, out]: nats per token."""
    return float(parts.sum(dim=1).square().mean(dtype=torch.float64)) / 2


def _through_block(
    block: Block, context: SequenceContext, hidden: torch.Tensor, gradient: torch.Tensor
) -> tuple[torch.Tensor, dict[str, _Watched]]:
    """From the gradient of a block's output to that of its input, and what its linears saw."""
    inputs: dict[str, torch.Tensor] = {}
    outputs: dict[str, torch.Tensor] = {}

    def watched(name: str, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        inputs[name] = x.detach().flatten(0, 1)
        outputs[name] = linear(x, weight)
        return outputs[name]

    hidden.requires_grad_()
    result = decoder_block(block, context, hidden, watched)
    first, *others = torch.autograd.grad(result, [hidden, *outputs.values()], gradient)
    return first, {
        name: _Watched(inputs[name], own.flatten(0, 1))
        for name, own in zip(outputs, others, strict=True)
    }


def _through_head(
    model: ModelWeights, hidden: torch.Tensor, candidates: Candidates, seed: int
) -> tuple[Mapping[str, float], torch.Tensor]:
    """What candidates for the head cost, and the gradient of the last block's output."""
    norm, head = model.final_norm(), model.head()
    eps = model.config.rms_norm_eps
    generator = torch.Generator().manual_seed(seed)
    rows = hidden.flatten(0, 1)
    pieces = torch.split(rows, _PIECE)
    gradients: list[torch.Tensor] = []
    for piece in pieces:
        wanted = piece.detach().requires_grad_()
        predicted = logits(wanted, norm, head, eps).log_softmax(dim=-1)
        drawn = torch.multinomial(predicted.detach().exp(), 1, generator=generator)
        gradients += torch.autograd.grad(predicted.gather(1, drawn).sum(), [wanted])
    costs = {}
    for candidate, error in candidates(head, rms_norm(rows, norm, eps)):
        total = 0.0
        for piece in pieces:
            # Logits that are off by dz: half the variance of dz under the predictions.
            likely = logits(piece, norm, head, eps).softmax(dim=-1)
            off = functional.linear(rms_norm(piece, norm, eps), error)
            off -= (likely * off).sum(dim=1, keepdim=True)
            total += float((likely * off.square()).sum(dtype=torch.float64)) / 2
        costs[candidate] = total / len(rows)
    return costs, torch.cat(gradients).view_as(hidden)
