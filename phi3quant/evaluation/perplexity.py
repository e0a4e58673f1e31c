"""Scores of models on text: per-token losses, perplexity, and divergence from a reference.

Perplexity is computed on the text's tokens in windows of n tokens without overlap. It is the
exponential of the mean negative log-likelihood (NLL, in nats) of every token given those before it
in the window. No BOS is added. Models with readable weights run block by block in FP32; see
phi3quant.model.predictor.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn import functional

from phi3quant.errors import InputError
from phi3quant.evaluation.paired_statistics import PairedMean, exponential, paired_mean
from phi3quant.model.device import CPU, computing_on
from phi3quant.model.predictor import PIECE_ROWS, CountSteps, Predictions, Predictor, predictor
from phi3quant.model.weights import ModelWeights
from phi3quant.progress import Progress, Step


@dataclass(frozen=True, repr=False)
class Score:
    """Score of one model on a text.

    Attributes:
        nll: FP64 [windows, length - 1], NLL of each target in nats.
    """

    nll: torch.Tensor

    def __repr__(self) -> str:
        return f"<Score: perplexity {self.perplexity:.4g} over {self.tokens:,} tokens>"

    @property
    def tokens(self) -> int:
        """Number of scored targets."""
        return self.nll.numel()

    @property
    def perplexity(self) -> float:
        """Exponential of the mean NLL; infinite on overflow, NaN if the model gave NaN."""
        return exponential(float(self.nll.mean()))

    @property
    def standard_error(self) -> float:
        """Standard error of the perplexity, by the delta method from that of window means."""
        return self.perplexity * paired_mean(self.nll).error

    @property
    def not_finite(self) -> int:
        """Number of targets with an NLL of NaN or infinity; above 0 for a broken model."""
        return int((~torch.isfinite(self.nll)).sum())


@dataclass(frozen=True, repr=False)
class Comparison:
    """Comparison of a model's predictions with a reference's, on the same tokens.

    Attributes:
        reference, candidate: scores of the two models.
        kl: FP64 [windows, length - 1], KL(reference || candidate) in nats.
        same_top: share of positions at which both rank the same token first.
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
        """Mean difference of the NLL, token by token, with its error."""
        return paired_mean(self.candidate.nll - self.reference.nll)

    @property
    def ratio(self) -> float:
        """Perplexity of the candidate divided by that of the reference."""
        return self.paired.ratio

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the ratio, from the paired differences of the NLL."""
        return self.paired.interval


def steps(models: Sequence[ModelWeights | Predictor]) -> int:
    """Number of progress steps for scoring these models: those of each, and one for the heads."""
    return sum(predictor(model).steps for model in models) + 1


@contextmanager
def scoring(
    device: torch.device, progress: Progress, total: int, stage: str = "scoring"
) -> Iterator[Step]:
    """Score on a device in the body, with progress in ``total`` steps.

    Raises:
        MemoryLimitError: the device has no memory left.
    """
    title = stage if device.type == "cpu" else f"{stage} on {device}"
    with torch.inference_mode(), computing_on(device), progress(title, total) as step:
        yield step


def score(
    models: Sequence[ModelWeights | Predictor],
    windows: torch.Tensor,
    progress: CountSteps | None = None,
    device: torch.device = CPU,
) -> list[Comparison]:
    """Score models on the same windows, each compared with the first.

    In memory at once are the weights that a predictor needs (usually one block), the heads of two
    models, and the hidden states of all windows for each model.

    Args:
        models: models, the reference first. A single model is compared with itself.
        windows: int64 token ids [windows, length].
        progress: receives the steps just done; see ``steps``.
        device: device that computes models whose weights can be read.

    Returns:
        Comparison of each model with the first, which is compared with itself.

    Raises:
        InputError: a model's vocabulary is smaller than an id in the text.
    """
    tell = progress or (lambda _steps: None)
    predictors = [predictor(model, device) for model in models]
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
    """Run both in step, so that only a few rows of log-probabilities exist at once."""
    targets = windows[:, 1:].reshape(-1)
    # A model that is compared with itself is computed once.
    pieces = (
        ((rows, rows) for rows in reference())
        if candidate is reference
        else zip(reference(), candidate(), strict=True)
    )
    first_nll, second_nll, divergence, first_top, second_top = [], [], [], [], []
    for (first, other), expected in zip(pieces, torch.split(targets, PIECE_ROWS), strict=True):
        second, target = other.to(first.device), expected.to(first.device)
        first_nll.append(-first.gather(1, target[:, None]).squeeze(1).double())
        second_nll.append(-second.gather(1, target[:, None]).squeeze(1).double())
        divergence.append(
            functional.kl_div(second, first, reduction="none", log_target=True).sum(dim=1).double()
        )
        first_top.append(first.argmax(dim=1).int())
        second_top.append(second.argmax(dim=1).int())
    shape = (len(windows), windows.shape[1] - 1)
    reference_top, candidate_top = torch.cat(first_top).cpu(), torch.cat(second_top).cpu()
    return Comparison(
        Score(torch.cat(first_nll).view(shape).cpu()),
        Score(torch.cat(second_nll).view(shape).cpu()),
        # Rounding errors may give a sum slightly below zero, which KL can't have.
        torch.cat(divergence).view(shape).clamp(min=0).cpu(),
        int((reference_top == candidate_top).sum()) / len(targets),
        reference_top.view(shape),
        candidate_top.view(shape),
    )
