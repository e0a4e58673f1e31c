"""Requirements, fronts and winners."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3quant.errors import InputError
from phi3quant.sweep.outcome import Figures, Scored
from phi3quant.sweep.pareto import best_under, front
from phi3quant.sweep.require import parse_requirement

SIZES = st.integers(1, 9)
LOSSES = st.none() | st.integers(1, 9).map(float)


def scored(nbytes: int, kl: float | None = 0.01, ratio: float | None = 1.04) -> Scored:
    return Scored("gguf", ".", nbytes, 4.5, Figures(2.0, ratio, (1.0, 1.1), kl, 0.96))


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("ppl_increase<5%", True),
        ("ppl_increase < 0.03", False),
        ("PPL_increase<=4.5 %", True),
        ("kl<0.01", False),
        ("kl<=0.01", True),
        ("bytes<=2GB", True),
        ("bytes<1.9GB", False),
        ("bpw<5", True),
        ("same_top>95%", True),
        ("same_top>=97%", False),
    ],
)
def test_an_artifact_meets_a_requirement_or_not(text: str, met: bool) -> None:  # noqa: FBT001
    assert parse_requirement(text).met(scored(2_000_000_000)) is met


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ppl<5%", "there is no figure 'ppl'"),
        ("ppl_increas<5%", "Did you mean ppl_increase?"),
        ("ppl_increase<5", "'5' is not a limit of ppl_increase; write ppl_increase<5%"),
        ("ppl_increase<-5%", "is not a limit"),
        ("ppl_increase>5%", "would require a worse model"),
        ("same_top<95%", "would require a worse model"),
        ("kl<1e-3", "is not a limit of kl"),
        ("kl<nan", "is not a limit of kl"),
        ("bytes<many", "is not a limit of bytes; write bytes<2.2GB"),
        ("kl=0.1", "is not a requirement"),
        ("kl<0.1<0.2", "is not a limit"),
        ("", "is not a requirement"),
    ],
)
def test_other_forms_are_refused_with_an_example(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_requirement(text)
    assert message in str(caught.value)


def test_a_figure_that_is_not_finite_meets_nothing() -> None:
    assert not parse_requirement("kl<9").met(scored(1, kl=None))
    assert not parse_requirement("ppl_increase<90%").met(scored(1, ratio=None))


@given(st.lists(st.tuples(SIZES, LOSSES), max_size=8))
def test_no_point_beats_one_on_the_front_and_each_other_point_is_beaten(
    points: list[tuple[int, float | None]],
) -> None:
    best = front(points)

    def beats(one: tuple[int, float | None], other: tuple[int, float | None]) -> bool:
        if one[1] is None or other[1] is None:
            return False
        return one[0] <= other[0] and one[1] <= other[1] and one != other

    kept = [points[index] for index in best]
    assert not any(beats(one, other) for one in points for other in kept)
    for point in points:
        if point[1] is not None and point not in kept:
            assert any(beats(other, point) for other in kept)
    assert kept == sorted(set(kept), key=lambda point: point[0])


def test_the_best_under_a_size_has_the_lowest_divergence() -> None:
    artifacts = [scored(3, 0.1), scored(2, 0.2), scored(1, 0.2), scored(2, None)]
    assert best_under(artifacts, 3) == 0
    assert best_under(artifacts, 2) == 2
    assert best_under(artifacts, 0) is None
