"""Grades from standings."""

import pytest

from phi3quant.auditing.finding import Finding, Standing, contradicted, finding, not_shown, shown
from phi3quant.auditing.grade import Grade, tally

_POINTS = {
    "s": [shown("", "")],
    "p": [shown("", ""), not_shown("", "")],
    "c": [shown("", ""), contradicted("", "")],
    "n": [not_shown("", "")],
}


def findings(letters: str) -> list[Finding]:
    return [Finding(letter, _POINTS[letter]) for letter in letters]


@pytest.mark.parametrize(
    ("letters", "grade"),
    [
        ("ssssssssss", Grade.A),
        ("ssssssssnn", Grade.A),
        ("sssssssppn", Grade.A),
        ("ssssssspnn", Grade.B),
        ("snnnnnnnnn", Grade.B),
        ("nnnnnnnnnn", Grade.B),
        ("sssssssssc", Grade.C),
        ("sssscnnnnn", Grade.C),
        ("sssssssscc", Grade.C),
        ("ssscnnnnnn", Grade.D),
        ("sccnnnnnnn", Grade.F),
        ("cnnnnnnnnn", Grade.F),
    ],
)
def test_missing_evidence_costs_the_a_and_contradictions_cost_more(
    letters: str, grade: Grade
) -> None:
    assert tally(findings(letters)).grade is grade


def test_a_tally_is_one_line() -> None:
    assert str(tally(findings("sssssppnnc"))) == "5 of 10 shown, 2 partly, 1 contradicted"
    assert str(tally(findings("sssssssnnn"))) == "7 of 10 shown, nothing contradicted"


def test_grades_meet_lower_ones() -> None:
    assert Grade.A.meets(Grade.B)
    assert Grade.B.meets(Grade.B)
    assert not Grade.C.meets(Grade.B)


def test_a_finding_puts_contradictions_first_and_counts_what_it_leaves_out() -> None:
    many = [*(shown("", str(number)) for number in range(100)), contradicted("", "no")]
    result = finding("name", many)
    assert result.standing is Standing.CONTRADICTED
    assert result.points[0].text == "no"
    assert result.points[-1].text == "and 88 more"
