from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from phi3quant.evaluation.perplexity import score, steps
from phi3quant.model import predictor as predictors
from phi3quant.model.config import Phi3Config
from phi3quant.model.predictor import BlockwisePredictor, CountSteps, Predictions, predictor
from phi3quant.source.checkpoint import open_checkpoint
from tests.models import VOCABULARY, own_logits

WINDOWS = torch.randint(0, VOCABULARY, (5, 30), generator=torch.Generator().manual_seed(2))


@dataclass(frozen=True)
class Guesser:
    """Predicts every token with equal probability, without weights."""

    config: Phi3Config
    steps: int = 3

    def prepare(self, windows: torch.Tensor, tell: CountSteps) -> Predictions:
        tell(self.steps)
        positions = windows[:, 1:].numel()

        def pieces() -> Iterator[torch.Tensor]:
            equal = torch.full((positions, self.config.vocab_size), 1.0 / self.config.vocab_size)
            yield from torch.split(equal.log(), predictors.PIECE_ROWS)

        return pieces


def test_pieces_follow_the_order_of_positions_and_can_be_read_again(
    checkpoint_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictors, "PIECE_ROWS", 64)
    model = open_checkpoint(checkpoint_folder("gqa"))
    predictions = BlockwisePredictor(model).prepare(WINDOWS, lambda _steps: None)
    pieces = list(predictions())
    assert [len(piece) for piece in pieces] == [64, 64, 5 * 29 - 128]
    expected = own_logits(model, WINDOWS)[:, :-1].flatten(0, 1).log_softmax(dim=-1)
    assert torch.allclose(torch.cat(pieces), expected, atol=1e-5)
    assert torch.equal(torch.cat(list(predictions())), torch.cat(pieces))


def test_models_with_and_without_weights_are_scored_together(
    checkpoint_folder: Callable[[str], Path],
) -> None:
    model = open_checkpoint(checkpoint_folder("gqa"))
    guesser = Guesser(model.config)
    assert predictor(guesser) is guesser
    done: list[int] = []
    _, guessed = score([model, guesser], WINDOWS, done.append)
    assert guessed.candidate.perplexity == pytest.approx(VOCABULARY)
    assert sum(done) == steps([model, guesser]) == 2 + 3 + 1
