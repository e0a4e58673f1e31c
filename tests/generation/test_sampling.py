import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phi3quant.errors import InputError
from phi3quant.generation.sampling import Sampling, choose

SCORES = torch.tensor([1.0, 3.0, 2.0, -1.0])


def draw(sampling: Sampling, count: int) -> list[int]:
    generator = sampling.generator()
    return [choose(SCORES, sampling, generator) for _ in range(count)]


def test_without_a_temperature_the_best_token_is_taken() -> None:
    assert draw(Sampling(seed=3), 5) == [1] * 5


def test_draws_follow_the_probabilities_and_can_be_repeated() -> None:
    drawn = draw(Sampling(temperature=0.7), 4000)
    shares = torch.bincount(torch.tensor(drawn), minlength=4) / len(drawn)
    # Five standard errors of a share of a half.
    assert torch.allclose(shares, (SCORES / 0.7).softmax(dim=0), atol=0.04)
    assert draw(Sampling(temperature=0.7), 50) == drawn[:50]
    assert draw(Sampling(temperature=0.7, seed=1), 50) != drawn[:50]


@given(top_p=st.floats(0.01, 1.0))
def test_top_p_draws_among_the_fewest_tokens_that_have_it(top_p: float) -> None:
    chances, order = SCORES.softmax(dim=0).sort(descending=True)
    needed = int((chances.cumsum(0) < top_p).sum()) + 1
    assert set(draw(Sampling(1.0, top_p), 40)) <= set(order[:needed].tolist())


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_numbers_without_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Sampling(**wrong)  # type: ignore[arg-type]
