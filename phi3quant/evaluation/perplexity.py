"""Score models on text: per-token losses, perplexity, and divergence from a reference.

Perplexity here: the text's token stream in windows of n tokens that don't overlap, the mean
negative log-likelihood (NLL, in nats) of every token of a window given those before it in the
window, exponentiated. No BOS is put in. Models that are weights are run block by block in FP32;
see phi3quant.model.predictor.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from phi3quant.errors import InputError
from phi3quant.evaluation.paired_statistics import PairedMean, exponential, paired_mean
from phi3quant.model.predictor import PIECE_ROWS, CountSteps, Predictions, Predictor, predictor
from phi3quant.model.weights import ModelWeights


@dataclass(frozen=True, repr=False)
class Score:
    """How well one model predicts a text.

    Attributes:
        nll: FP64 [windows, length - 1], NLL of each target in nats.
    """

    nll: torch.Tensor

    def __repr__(self) -> str:
        return f"<Score: perplexity {self.perplexity:.4g} over {self.tokens:,} tokens>"

    @property
    def tokens(self) -> int:
        """Targets scored."""
        return self.nll.numel()

    @property
    def perplexity(self) -> float:
        """Exp of the mean NLL; infinite if that overflows, NaN if the model gave NaN."""
        return exponential(float(self.nll.mean()))

    @property
    def standard_error(self) -> float:
        """Standard error of the perplexity, from the window means' (delta method)."""
        return self.perplexity * paired_mean(self.nll).error

    @property
    def not_finite(self) -> int:
        """Targets whose NLL is NaN or infinite; more than none means a broken model."""
        return int((~torch.isfinite(self.nll)).sum())


@dataclass(frozen=True, repr=False)
class Comparison:
    """A model's predictions compared with a reference's on the same tokens.

    Attributes:
        reference, candidate: their scores.
        kl: FP64 [windows, length - 1], KL(reference || candidate) in nats.
        same_top: share of positions where both rank the same token first.
        reference_top, candidate_top: int32 [windows, length - 1], the token that each ranks first;
            None if they weren't kept.
    """

    reference: Score
    candidate: Score
    kl: torch.Tensor
    same_top: float
    reference_top: torch.Tensor | None = None
    candidate_top: torch.Tensor | None = None

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"<Comparison: ratio {self.ratio:.4f} ({low:.4f} to {high:.4f}), "
            f"mean KL {float(self.kl.mean()):.4f} nats>"
        )

    @property
    def paired(self) -> PairedMean:
        """The mean difference of the NLL, token by token, and how sure it is."""
        return paired_mean(self.candidate.nll - self.reference.nll)

    @property
    def ratio(self) -> float:
        """The candidate's perplexity divided by the reference's."""
        return self.paired.ratio

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the ratio, from the paired differences of the NLL."""
        return self.paired.interval


def steps(models: Sequence[ModelWeights | Predictor]) -> int:
    """How many steps of progress scoring these models takes: each one's own and the heads."""
    return sum(predictor(model).steps for model in models) + 1


def score(
    models: Sequence[ModelWeights | Predictor],
    windows: torch.Tensor,
    progress: CountSteps | None = None,
) -> list[Comparison]:
    """Score models on the same windows, each compared with the first.

    Memory: what a predictor needs while it prepares (of weights: one block), the heads of two
    models, and the hidden states of all windows for each model.

    Args:
        models: the reference first. A single model is compared with itself.
        windows: int64 token ids [windows, length].
        progress: told of the steps done; see ``steps``.

    Returns:
        A comparison for each model, the first with itself.

    Raises:
        InputError: a model's vocabulary is smaller than an id in the text.
    """
    tell = progress or (lambda _steps: None)
    predictors = [predictor(model) for model in models]
    vocab = min(each.config.vocab_size for each in predictors)
    if int(windows.max()) >= vocab:
        raise InputError(
            f"the text has token {int(windows.max())}, but the vocabulary ends at {vocab - 1}; "
            "the tokenizer doesn't belong to the model"
        )
    prepared = [each.prepare(windows, tell) for each in predictors]
    results = [_compare(prepared[0], candidate, windows) for candidate in prepared]
    tell(1)
    return results


def _compare(reference: Predictions, candidate: Predictions, windows: torch.Tensor) -> Comparison:
    """Run both side by side, so that no more than a few rows of log-probabilities exist at once."""
    targets = windows[:, 1:].reshape(-1)
    # One that is compared with itself is computed once.
    pieces = (
        ((rows, rows) for rows in reference())
        if candidate is reference
        else zip(reference(), candidate(), strict=True)
    )
    own_nll, other_nll, divergence, own_top, other_top = [], [], [], [], []
    for (own, other), target in zip(pieces, torch.split(targets, PIECE_ROWS), strict=True):
        own_nll.append(-own.gather(1, target[:, None]).squeeze(1).double())
        other_nll.append(-other.gather(1, target[:, None]).squeeze(1).double())
        divergence.append(
            functional.kl_div(other, own, reduction="none", log_target=True).sum(dim=1).double()
        )
        own_top.append(own.argmax(dim=1).int())
        other_top.append(other.argmax(dim=1).int())
    shape = (len(windows), windows.shape[1] - 1)
    reference_top, candidate_top = torch.cat(own_top), torch.cat(other_top)
    return Comparison(
        Score(torch.cat(own_nll).view(shape)),
        Score(torch.cat(other_nll).view(shape)),
        # The sum of many roundings may end a hair below zero, where KL can't be.
        torch.cat(divergence).view(shape).clamp(min=0),
        int((reference_top == candidate_top).sum()) / len(targets),
        reference_top.view(shape),
        candidate_top.view(shape),
    )
