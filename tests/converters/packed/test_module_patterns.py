"""Regular expressions of other people's configurations, matched in bounded time."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.packed.module_patterns import matching_names
from phi3quant.errors import SchemeError

NAMES = [
    f"model.layers.{index}.{module}"
    for index in (0, 1, 2, 11, 20)
    for module in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
]

_ATOMS = st.sampled_from(
    [r".", r"\.", "l", "mo", r"\d", r"\w", r"[0-2]", r"[^.]", r"[a-z_]", "^", "$", r"\D", "layers"]
)
_COUNTS = st.sampled_from(["", "*", "+", "?", "{2}", "{1,3}", "{,2}", "{2,}", "*?", "+?"])


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = st.tuples(st.sampled_from(["(", "(?:"]), inner, st.just(")"), _COUNTS).map("".join)
    return st.one_of(
        group,
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("|".join),
    )


EXPRESSIONS = st.recursive(st.tuples(_ATOMS, _COUNTS).map("".join), _grown, max_leaves=8)


@given(expression=EXPRESSIONS)
def test_the_same_names_match_as_in_pythons_re(expression: str) -> None:
    try:
        pattern = re.compile(expression)
    except re.error:
        with pytest.raises(SchemeError, match="isn't supported from"):
            matching_names([expression], NAMES)
        return
    expected = frozenset(name for name in NAMES if pattern.match(name))
    assert matching_names([expression], NAMES) == [expected]


@pytest.mark.parametrize(
    "expression",
    [
        r".*\.18\..*(?:gate|up|down).*",
        r"model\.layers\.([2-9]\d*|[1-9]\d+)\..*",
        r".*down_proj$",
        r"^model\.layers\.0\.mlp\.down_proj$",
        r"[]m]odel",
        r"model[.-]",
        "",
    ],
)
def test_expressions_of_other_tools_are_matched(expression: str) -> None:
    expected = frozenset(name for name in NAMES if re.match(expression, name))
    assert matching_names([expression], NAMES) == [expected]


@pytest.mark.parametrize(
    "expression", ["(.*)*(.*)*(.*)*x", "(a+)+b", "(m|mo|.)*$x", "(((.*)*)*)*x"]
)
def test_expressions_that_take_re_forever_are_answered(expression: str) -> None:
    assert matching_names([expression], NAMES) == [frozenset()]


def test_many_slow_expressions_are_refused() -> None:
    with pytest.raises(SchemeError, match="take too long"):
        matching_names(["(.?){300}x"] * 10_000, NAMES)
    with pytest.raises(SchemeError, match="take too long"):
        matching_names([f"[{'ab' * 400}]*"] * 10_000, NAMES)


@pytest.mark.parametrize(
    "expression",
    [
        *("(?=a)", "(?i)a", "(", ")", "a)", "[a", "a**", r"\1", r"\b"),
        *("a{2", "a{2,1}", "*", "\\", "[b-a]"),
    ],
)
def test_other_constructs_are_refused_by_name(expression: str) -> None:
    with pytest.raises(SchemeError, match="isn't supported from"):
        matching_names([expression], NAMES)


@pytest.mark.parametrize("expression", ["(" * 500 + ")" * 500, "((a{90}){90})", "a" * 2000])
def test_long_expressions_are_refused(expression: str) -> None:
    with pytest.raises(SchemeError, match="too long"):
        matching_names([expression], NAMES)
