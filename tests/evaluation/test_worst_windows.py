"""Windows of text with the greatest loss."""

from collections.abc import Sequence

import pytest
import torch

from phi3quant.evaluation.metrics import worst_windows
from phi3quant.evaluation.perplexity import Comparison, Score

WORDS = ["zero", "one", "two", "three", "four", "five"]


def decode(ids: Sequence[int]) -> str:
    """Words with spaces between them, as SentencePiece decodes."""
    return " ".join(WORDS[number] for number in ids)


@pytest.fixture
def windows() -> torch.Tensor:
    return torch.tensor([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])


def comparison(lost: list[list[float]], *, tops: bool) -> Comparison:
    """Two models, the second worse by ``lost``; they rank "one" and "five" first everywhere."""
    reference = torch.ones(2, 4, dtype=torch.float64)
    candidate = Score(reference + torch.tensor(lost, dtype=torch.float64))
    ones = torch.ones(2, 4, dtype=torch.int32) if tops else None
    fives = None if ones is None else 5 * ones
    return Comparison(Score(reference), candidate, reference, 0.0, ones, fives)


def test_the_worst_token_is_marked_with_both_predictions(windows: torch.Tensor) -> None:
    lost = [[0.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]]
    worst, other = worst_windows(comparison(lost, tops=True), windows, decode)
    assert (worst.number, worst.token) == (1, "two")
    assert worst.text[worst.start : worst.end] == "two"
    assert (worst.reference_top, worst.candidate_top) == ("one", "five")
    assert other.number == 0


def test_predictions_that_were_not_kept_are_unknown(windows: torch.Tensor) -> None:
    worst = worst_windows(comparison([[1.0] * 4, [0.0] * 4], tops=False), windows, decode)[0]
    assert worst.reference_top is None
    assert worst.candidate_top is None


def test_a_token_without_text_of_its_own_is_not_marked(windows: torch.Tensor) -> None:
    def decode_bytes(ids: Sequence[int]) -> str:
        """Each pair of tokens is one character; half of one can't be decoded."""
        return "é" * (len(ids) // 2) + "\ufffd" * (len(ids) % 2)

    lost = [[1.0, 0.0, 0.0, 0.0], [0.0] * 4]
    worst = worst_windows(comparison(lost, tops=True), windows, decode_bytes)[0]
    assert worst.start == worst.end
    assert worst.text == "éé\ufffd"
