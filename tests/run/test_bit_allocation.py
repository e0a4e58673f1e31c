"""Bits where they pay."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3quant.errors import SchemeError
from phi3quant.run.bit_allocation import Option, allocate

options = st.lists(
    st.builds(Option, st.uuids().map(str), st.integers(1, 50), st.floats(0, 100)),
    min_size=1,
    max_size=4,
)
problems = st.dictionaries(st.sampled_from("abcd"), options, min_size=1)


@given(problems, st.integers(0, 250))
def test_the_budget_holds_and_no_choice_is_dominated(
    problem: dict[str, list[Option]], budget: int
) -> None:
    least = sum(min(way.nbytes for way in ways) for ways in problem.values())
    if least > budget:
        with pytest.raises(SchemeError, match="too small: the smallest"):
            allocate(problem, budget)
        return
    names = allocate(problem, budget)
    chosen = {m: next(w for w in ways if w.name == names[m]) for m, ways in problem.items()}
    assert sum(way.nbytes for way in chosen.values()) <= budget
    for matrix, ways in problem.items():
        mine = chosen[matrix]
        assert not any(way.nbytes <= mine.nbytes and way.cost < mine.cost for way in ways)


@given(problems)
def test_at_its_own_price_a_choice_is_the_best_of_all(problem: dict[str, list[Option]]) -> None:
    """Against every combination, for the budgets that the steps meet exactly."""
    most = sum(max(way.nbytes for way in ways) for ways in problem.values())
    names = allocate(problem, most)
    cost = sum(next(w.cost for w in ways if w.name == names[m]) for m, ways in problem.items())
    best = min(sum(way.cost for way in ways) for ways in itertools.product(*problem.values()))
    assert math.isclose(cost, best, rel_tol=1e-9, abs_tol=1e-9)


def test_steps_are_bought_by_what_they_save_for_each_byte() -> None:
    ways = {
        "dear": [Option("4", 4, 10), Option("8", 8, 9)],
        "worth": [Option("4", 4, 10), Option("6", 6, 5), Option("8", 8, 4)],
    }
    assert allocate(ways, 10) == {"dear": "4", "worth": "6"}
    assert allocate(ways, 12) == {"dear": "4", "worth": "8"}
    assert allocate(ways, 16) == {"dear": "8", "worth": "8"}
