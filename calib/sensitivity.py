"""Cost of each matrix's quantization error for the whole model, from one backward pass.

To second order, an error dy in the outputs of a matrix changes the predictions by a divergence of
half the mean of (g . dy)^2. Here g is the gradient of the log-probability of tokens sampled from
the model's predictions; its second moments are the Fisher information (Amari, 1998). Errors of
different tokens are assumed to be independent. The pass is computed block by block.

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

# Rows of logits that are in memory at once.
_PIECE = 128

Errors = Iterable[tuple[str, torch.Tensor]]
"""Names of candidates and their errors (quantized minus original matrix), FP32 [rows, columns].

They are generated one at a time, since each is as large as the matrix."""

Candidates = Callable[[torch.Tensor, torch.Tensor | None], Errors]
"""Errors of the candidates for a matrix FP32 [rows, columns] with inputs FP32 [tokens, columns];
the inputs of the embedding are None."""

Costs = Mapping[str, Mapping[str, float]]
"""KL(original || quantized) in nats per token, by name of the matrix and by candidate."""


@dataclass(frozen=True)
class Watched:
    """Inputs and gradients of one linear.

    Attributes:
        inputs: FP32 [tokens, in].
        gradients: gradients of the sampled tokens' log-probability by the linear's outputs,
            FP32 [tokens, out].
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
    """Measure the cost of each candidate for each matrix while all other matrices stay unchanged.

    Args:
        model: the model in full precision; the device of its tensors computes.
        ids: token ids of the text, int64 [windows, length].
        candidates: computes the errors to measure.
        tell: receives 1 twice for every block, once in each direction.
        seed: seed of the sampled tokens.

    Returns:
        Costs of every linear, the embedding and the head; for a tied pair, their sum under the
        embedding's name.
    """
    config = model.config
    embedding = model.embedding()
    ids = ids.to(embedding.device)
    context = sequence_context(config, ids.shape[1], device=ids.device)
    states = [embed(embedding, ids)]
    for index in range(config.num_hidden_layers):
        states.append(decoder_block(model.block(index), context, states[-1]))
        tell(1)
    head_costs, gradient = through_head(model, states.pop(), candidates, seed)
    costs: dict[str, Mapping[str, float]] = {}
    for index in reversed(range(config.num_hidden_layers)):
        block = model.block(index)
        gradient, watched = through_block(block, context, states.pop(), gradient)
        for name, entry in watched.items():
            errors = candidates(block[name], entry.inputs)
            costs[block_tensor_name(index, name)] = {
                candidate: _divergence(functional.linear(entry.inputs, error) * entry.gradients)
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
    """Half the mean of the squared row sums of FP32 [tokens, out], in nats per token."""
    return float(parts.sum(dim=1).square().mean(dtype=torch.float64)) / 2


def through_block(
    block: Block, context: SequenceContext, hidden: torch.Tensor, gradient: torch.Tensor
) -> tuple[torch.Tensor, dict[str, Watched]]:
    """Gradient by a block's input, and inputs and gradients of its linears.

    Args:
        block: FP32 tensors.
        context: rotary tables and mask for the windows' length.
        hidden: input of the block, FP32 [windows, length, hidden].
        gradient: gradient by its output, FP32 [windows, length, hidden].
    """
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
        name: Watched(inputs[name], gradients.flatten(0, 1))
        for name, gradients in zip(outputs, others, strict=True)
    }


def through_head(
    model: ModelWeights, hidden: torch.Tensor, candidates: Candidates, seed: int
) -> tuple[Mapping[str, float], torch.Tensor]:
    """Costs of the candidates for the head, and the gradient by the last block's output."""
    norm, head = model.final_norm(), model.head()
    eps = model.config.rms_norm_eps
    generator = torch.Generator(hidden.device).manual_seed(seed)
    rows = hidden.flatten(0, 1)
    pieces = torch.split(rows, _PIECE)
    gradients: list[torch.Tensor] = []
    for piece in pieces:
        leaf = piece.detach().requires_grad_()
        predicted = logits(leaf, norm, head, eps).log_softmax(dim=-1)
        sampled = torch.multinomial(predicted.detach().exp(), 1, generator=generator)
        gradients += torch.autograd.grad(predicted.gather(1, sampled).sum(), [leaf])
    costs = {}
    for candidate, error in candidates(head, rms_norm(rows, norm, eps)):
        total = 0.0
        for piece in pieces:
            # An error dz of the logits costs half the variance of dz under the predictions.
            probabilities = logits(piece, norm, head, eps).softmax(dim=-1)
            off = functional.linear(rms_norm(piece, norm, eps), error)
            off -= (probabilities * off).sum(dim=1, keepdim=True)
            total += float((probabilities * off.square()).sum(dtype=torch.float64)) / 2
        costs[candidate] = total / len(rows)
    return costs, torch.cat(gradients).view_as(hidden)
