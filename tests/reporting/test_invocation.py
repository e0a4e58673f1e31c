"""The command that reproduces a report."""

import shlex
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.reporting.invocation import Invocation, invocation


def test_all_arguments_are_in_the_command() -> None:
    text = EvaluationText(Path("my text.txt"), "body", 256, 4096)
    command = invocation(["out", Path("b.gguf")], Path("base"), text, scored=False)
    assert command.command("page.html") == (
        "phi3quant report out b.gguf --reference=base '--text=my text.txt' --text-field=body "
        "--window=256 --max-tokens=4096 --no-score -o page.html"
    )


def test_defaults_are_left_out() -> None:
    assert invocation(["out"], None, EvaluationText(), scored=True).command() == (
        "phi3quant report out"
    )


@given(st.lists(st.text(min_size=1), min_size=1, max_size=3))
def test_any_name_survives_the_shell(names: list[str]) -> None:
    words = shlex.split(Invocation(names, []).command())
    assert words[-len(names) :] == names
    dashed = any(name.startswith("-") for name in names)
    assert (words[2] == "--") == dashed or names[0] == "--"
