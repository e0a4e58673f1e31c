"""Score models on text: per-token losses, perplexity, and divergence from a reference.

Perplexity here: the text's token stream in windows of n tokens that don't overlap, the mean
negative log-likelihood (NLL, in nats) of every token of a window given those before it in the
window, exponentiated. No BOS is put in. Models are run block by block in FP32.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from phi3quant.checkpoint import ModelWeights
from phi3quant.errors import InputError
from phi3quant.model import decoder_block, embed, logits, sequence_context

Progress = Callable[[int], None]
"""Called with the number of steps just done; see ``steps``."""

# Tokens that pass through a block, and through the head, at once.
_BLOCK_TOKENS = 4096
_HEAD_TOKENS = 512


@dataclass(frozen=True)
class Score:
    """How well one model predicts a text.

    Attributes:
        nll: FP64 [windows, length - 1], NLL of each target in nats.
    """

    nll: torch.Tensor

    @property
    def tokens(self) -> int:
        """Targets scored."""
        return self.nll.numel()

    @property
    def perplexity(self) -> float:
        """Exp of the mean NLL; infinite if that overflows, NaN if the model gave NaN."""
        return _exp(float(self.nll.mean()))

    @property
    def standard_error(self) -> float:
        """Standard error of the perplexity, from the spread of window means (delta method)."""
        return self.perplexity * _error_of_mean(self.nll)

    @property
    def not_finite(self) -> int:
        """Targets whose NLL is NaN or infinite; more than none means a broken model."""
        return int((~torch.isfinite(self.nll)).sum())


@dataclass(frozen=True)
class Comparison:
    """A model's predictions beside a reference's on the same tokens.

    Attributes:
        reference, candidate: their scores.
        kl: FP64 [windows, length - 1], KL(reference || candidate) in nats.
        same_top: share of positions where both rank the same token first.
    """

    reference: Score
    candidate: Score
    kl: torch.Tensor
    same_top: float

    @property
    def ratio(self) -> float:
        """The candidate's perplexity divided by the reference's."""
        return _exp(float((self.candidate.nll - self.reference.nll).mean()))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the ratio, from the paired differences of the NLL."""
        difference = self.candidate.nll - self.reference.nll
        mean, half = float(difference.mean()), 1.96 * _error_of_mean(difference)
        return _exp(mean - half), _exp(mean + half)


def steps(models: Sequence[ModelWeights]) -> int:
    """How many steps of progress scoring these models takes: their blocks and the head."""
    return sum(model.config.num_hidden_layers for model in models) + 1


def score(
    models: Sequence[ModelWeights], windows: torch.Tensor, progress: Progress | None = None
) -> list[Comparison]:
    """Score models on the same windows, each compared with the first.

    Memory: one block's weights, the head of two models, and the hidden states of all windows for
    each model.

    Args:
        models: the reference first. A single model is compared with itself.
        windows: int64 token ids [windows, length].
        progress: told of every block done.

    Returns:
        A comparison for each model, the first with itself.

    Raises:
        InputError: a model's vocabulary is smaller than an id in the text.
    """
    tell = progress or (lambda _steps: None)
    vocab = min(model.config.vocab_size for model in models)
    if int(windows.max()) >= vocab:
        raise InputError(
            f"the text has token {int(windows.max())}, but the vocabulary ends at {vocab - 1}; "
            "the tokenizer doesn't belong to the model"
        )
    states = [final_states(model, windows, tell) for model in models]
    results = [
        _compare(models[0], model, states[0], state, windows)
        for model, state in zip(models, states, strict=True)
    ]
    tell(1)
    return results


def final_states(model: ModelWeights, windows: torch.Tensor, tell: Progress) -> torch.Tensor:
    """Output of the last block for every position: FP32 [windows, length, hidden]."""
    context = sequence_context(model.config, windows.shape[1])
    hidden = embed(model.embedding(), windows)
    for index in range(model.config.num_hidden_layers):
        block = model.block(index)
        for batch in torch.split(hidden, max(1, _BLOCK_TOKENS // windows.shape[1])):
            batch.copy_(decoder_block(block, context, batch))
        tell(1)
    return hidden


def _compare(
    reference: ModelWeights,
    candidate: ModelWeights,
    reference_states: torch.Tensor,
    candidate_states: torch.Tensor,
    windows: torch.Tensor,
) -> Comparison:
    """Run both heads side by side, so that no more than a few rows of logits exist at once."""
    targets = windows[:, 1:].reshape(-1)
    own_head = _head(reference)
    other_head = own_head if candidate is reference else _head(candidate)
    own_rows = torch.split(reference_states[:, :-1].flatten(0, 1), _HEAD_TOKENS)
    other_rows = torch.split(candidate_states[:, :-1].flatten(0, 1), _HEAD_TOKENS)
    own_nll, other_nll, divergence, agreed = [], [], [], 0
    for own, other, target in zip(
        own_rows, other_rows, torch.split(targets, _HEAD_TOKENS), strict=True
    ):
        own_log = own_head(own)
        other_log = own_log if candidate is reference else other_head(other)
        own_nll.append(-own_log.gather(1, target[:, None]).squeeze(1).double())
        other_nll.append(-other_log.gather(1, target[:, None]).squeeze(1).double())
        divergence.append(
            functional.kl_div(other_log, own_log, reduction="none", log_target=True)
            .sum(dim=1)
            .double()
        )
        agreed += int((own_log.argmax(dim=1) == other_log.argmax(dim=1)).sum())
    shape = (len(windows), windows.shape[1] - 1)
    return Comparison(
        Score(torch.cat(own_nll).view(shape)),
        Score(torch.cat(other_nll).view(shape)),
        # The sum of many roundings may end a hair below zero, where KL can't be.
        torch.cat(divergence).view(shape).clamp(min=0),
        agreed / len(targets),
    )


def _head(model: ModelWeights) -> Callable[[torch.Tensor], torch.Tensor]:
    """Log-probabilities [rows, vocab] from final states [rows, hidden]."""
    norm, head, eps = model.final_norm(), model.head(), model.config.rms_norm_eps
    return lambda rows: functional.log_softmax(logits(rows, norm, head, eps), dim=-1)


def _error_of_mean(values: torch.Tensor) -> float:
    """Standard error of the mean of [windows, targets].

    Targets of one window share a context, so windows are the independent unit; with fewer than
    two of them there is nothing to estimate from, and the targets stand in.
    """
    units = values.mean(dim=1) if len(values) > 1 else values[0]
    if len(units) < 2:
        return math.nan
    return float(units.std() / math.sqrt(len(units)))


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
