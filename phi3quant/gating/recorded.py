"""Recorded predictions, and scores of a model against them without the recorded model."""

import torch

from phi3quant.errors import NotComparableError
from phi3quant.evaluation.perplexity import Comparison, Score
from phi3quant.gating.top_predictions import TopPredictions, concatenate, top_predictions
from phi3quant.model.device import CPU
from phi3quant.model.predictor import PIECE_ROWS, CountSteps, Predictor, predictor
from phi3quant.model.weights import ModelWeights


def record(
    model: ModelWeights | Predictor,
    windows: torch.Tensor,
    tell: CountSteps,
    device: torch.device = CPU,
) -> tuple[torch.Tensor, TopPredictions]:
    """Record a model's predictions on a text in compact form.

    Args:
        model: model to record, usually in full precision.
        windows: int64 token ids [windows, length].
        tell: receives the predictor's steps.
        device: device that computes, unless only a runtime can run the model.

    Returns:
        NLL of every target, FP32 [windows, length - 1], and the best tokens at each.
    """
    targets = torch.split(windows[:, 1:].reshape(-1), PIECE_ROWS)
    losses, best = [], []
    predictions = predictor(model, device).prepare(windows, tell)
    for rows, expected in zip(predictions(), targets, strict=True):
        target = expected.to(rows.device)
        losses.append(-rows.gather(1, target[:, None]).squeeze(1).cpu())
        best.append(top_predictions(rows).to(CPU))
    return torch.cat(losses).view(len(windows), -1), concatenate(best)


def score_beside(
    recorded_nll: torch.Tensor,
    recorded_top: TopPredictions,
    model: ModelWeights | Predictor,
    windows: torch.Tensor,
    tell: CountSteps,
    device: torch.device = CPU,
) -> Comparison:
    """Score a model against a recorded reference on the same windows.

    Args:
        recorded_nll: recorded NLL, FP32 [windows, length - 1].
        recorded_top: recorded predictions at the same positions.
        model: candidate.
        windows: int64 token ids [windows, length] of the recording.
        tell: receives the predictor's steps.
        device: see record.

    Returns:
        The comparison; its KL is computed over the recorded tokens and the rest.

    Raises:
        NotComparableError: the model's vocabulary is smaller than the recorded one.
    """
    candidate = predictor(model, device)
    largest = max(int(recorded_top.ids.max()), int(windows.max()))
    if largest >= candidate.config.vocab_size:
        raise NotComparableError(
            f"the baseline contains token {largest}, but the model's vocabulary ends at "
            f"{candidate.config.vocab_size - 1}"
        )
    targets = torch.split(windows[:, 1:].reshape(-1), PIECE_ROWS)
    losses, divergence, agreed, start = [], [], 0, 0
    for rows, expected in zip(candidate.prepare(windows, tell)(), targets, strict=True):
        reference = recorded_top.piece(start, start + len(rows)).to(rows.device)
        target = expected.to(rows.device)
        losses.append(-rows.gather(1, target[:, None]).squeeze(1).double().cpu())
        divergence.append(reference.divergence(rows).cpu())
        agreed += int(reference.same_top(rows).sum())
        start += len(rows)
    return Comparison(
        Score(recorded_nll.double()),
        Score(torch.cat(losses).view(recorded_nll.shape)),
        torch.cat(divergence).view(recorded_nll.shape),
        agreed / start,
    )
