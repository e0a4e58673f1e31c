"""Sample answers of a report."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from phi3quant.errors import InputError
from phi3quant.evaluation.evaluate import Artifact, EvaluationText
from phi3quant.generation.generate import Generated
from phi3quant.progress import silent
from phi3quant.reporting import answers
from phi3quant.reporting.answers import sample_answers
from phi3quant.reporting.page import render
from phi3quant.reporting.report import Report, make_report
from tests.reporting.pages import parsed, words


def generated(text: str, *, stopped: bool = True) -> Generated:
    return Generated("name", "format", "runtime", 3, (1,), text, stopped, 0.1, 0.1)


def opened_models(number: int) -> list[Artifact]:
    """Stand-ins for opened models; the answers of these tests don't come from them."""
    return [mock.Mock() for _ in range(number)]


def test_each_model_is_opened_once_for_all_prompts(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phi3quant.generation.generate.open_located", pytest.fail)
    models = [(each.name, each.opened) for each in report.variants]
    samples = sample_answers(models, silent)
    assert any(answer.text for row in samples.rows for answer in row.answers)


def test_all_models_answer_the_same_prompts(report: Report, page: str) -> None:
    assert report.samples is not None
    names = [report.measurement.reference_name, *(each.name for each in report.variants)]
    assert [row.name for row in report.samples.rows] == names
    assert all(len(row.answers) == len(answers.PROMPTS) for row in report.samples.rows)
    assert any(answer.text for row in report.samples.rows for answer in row.answers)
    table = parsed(page).find(".//section[@id='samples']//table")
    assert all(prompt in words(table) for prompt in answers.PROMPTS)


def test_answers_are_greedy_and_short(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(opened: Artifact, prompt: str, **options: object) -> Generated:
        asked.append((opened, prompt, options["max_new_tokens"]))
        assert "sampling" not in options
        return generated("cold", stopped=False)

    monkeypatch.setattr(answers, "generate_from", answer)
    first, second = opened_models(2)
    samples = sample_answers([("a", first), ("b", second)], silent, ["hot?"])
    assert asked == [(first, "hot?", 32), (second, "hot?", 32)]
    assert [row.answers[0].note for row in samples.rows] == ["cut short at 32 tokens"] * 2


@pytest.mark.parametrize(
    ("error", "note"),
    [(InputError("no template"), "failed: no template"), (RuntimeError("x"), "failed: Runtime")],
)
def test_a_failure_becomes_a_note(
    monkeypatch: pytest.MonkeyPatch, error: Exception, note: str
) -> None:
    def fail(*_arguments: object, **_options: object) -> Generated:
        raise error

    monkeypatch.setattr(answers, "generate_from", fail)
    (model,) = opened_models(1)
    (row,) = sample_answers([("a", model)], silent).rows
    assert all(answer.note.startswith(note) for answer in row.answers)
    assert not row.runtime


def test_a_slow_model_is_cut_short_and_the_rest_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def slow(*_arguments: object, tell: Callable[[str], None], **_options: object) -> Generated:
        for piece in ("one ", "two ", "three"):
            now[0] += answers.ANSWER_SECONDS * 0.6
            tell(piece)
        return generated("unreachable")

    monkeypatch.setattr(answers, "generate_from", slow)
    models = [(str(number), model) for number, model in enumerate(opened_models(4))]
    samples = sample_answers(models, silent, clock=lambda: now[0])
    assert samples.rows[0].answers[0].text == "one two "
    assert samples.rows[0].answers[0].note == "cut short after 30 s"
    assert samples.rows[-1].answers[-1].note.startswith("left out: the time limit of 240 s")


def test_nothing_is_generated_where_nothing_is_scored(
    quantized: tuple[Path, Path, EvaluationText], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "generate_from", pytest.fail)
    _, folder, text = quantized
    unscored = make_report(str(folder / "gguf"), text=text, scored=False)
    assert unscored.samples is None
    assert parsed(render(unscored)).find(".//section[@id='samples']") is None
