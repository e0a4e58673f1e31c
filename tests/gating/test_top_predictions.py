import math

import pytest
import torch

from phi3quant.gating.top_predictions import STEP, TOP, TopPredictions, concatenate, top_predictions


def guesses(vocabulary: int, seed: int, rows: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(rows, vocabulary, generator=generator)).log_softmax(dim=1)


def direct(own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return (own.double().exp() * (own.double() - other.double())).sum(dim=1)


def test_a_small_vocabulary_is_kept_whole_and_its_divergence_is_exact() -> None:
    own, other = guesses(50, 1), guesses(50, 2)
    found = top_predictions(own).divergence(other)
    assert torch.allclose(found, direct(own, other), rtol=1e-3, atol=1e-4)


def test_a_large_vocabulary_gives_a_close_lower_bound() -> None:
    own = guesses(2000, 1)
    other = (
        own + 0.1 * torch.randn(own.shape, generator=torch.Generator().manual_seed(3))
    ).log_softmax(1)
    found, true = top_predictions(own).divergence(other), direct(own, other)
    assert (found <= true + 1e-5).all()
    assert float(found.mean()) > 0.6 * float(true.mean())


def test_a_model_beside_its_own_recording_diverges_by_rounding_alone() -> None:
    own = guesses(2000, 1)
    found = top_predictions(own).divergence(own)
    assert float(found.max()) < STEP**2 / 8
    assert (found >= 0).all()


def test_certainty_leaves_no_rest_and_no_divergence() -> None:
    certain = torch.full((3, 300), -200.0)
    certain[:, 7] = 0.0
    recorded = top_predictions(certain)
    assert recorded.ids[:, 0].tolist() == [7, 7, 7]
    assert float(recorded.divergence(certain).max()) == pytest.approx(0, abs=1e-9)
    assert math.isfinite(float(recorded.divergence(guesses(300, 1, rows=3)).max()))


def test_the_likeliest_come_first_and_pieces_join_again() -> None:
    own = guesses(500, 4)
    recorded = top_predictions(own)
    assert recorded.ids.shape == (40, TOP)
    assert recorded.same_top(own).all()
    assert not recorded.same_top(-own).any()
    again: TopPredictions = concatenate([recorded.piece(0, 15), recorded.piece(15, 40)])
    assert torch.equal(again.ids, recorded.ids)
    assert torch.equal(again.log, recorded.log)
    assert torch.equal(again.rest, recorded.rest)
