"""``phi3quant audit``, as it is called."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from phi3quant.auditing.criteria import CRITERIA

Run = Callable[..., Result]


def test_text_and_json_show_the_same(run: Run, model: Path) -> None:
    text, told = run("audit", model), json.loads(run("audit", model, "--json").stdout)
    assert text.exit_code == 0
    assert [each["name"] for each in told["criteria"]] == list(CRITERIA)
    for criterion in told["criteria"]:
        assert f"{criterion['name']}: {criterion['standing']}" in text.stdout
        for point in criterion["points"]:
            assert point["standing"] in {"shown", "contradicted", "not shown"}
            assert " ".join(point["text"].split()) in " ".join(text.stdout.split())
    assert text.stdout.splitlines()[-1].startswith(f"{told['grade']}: {told['shown']} of 10 shown")
    assert told["shown"] + told["partly"] + told["contradicted"] + told["not_shown"] == 10


@pytest.mark.parametrize("columns", [60, 80])
def test_lines_fit_the_terminal(
    run: Run, model: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "README.md").write_text(f"---\nlicense: {'mit ' * 99}\n---\n", encoding="utf-8")
    monkeypatch.setenv("COLUMNS", str(columns))
    for words in (("audit", model), ("audit", "phi3-tiny", "--ask", "-q")):
        lines = run(*words).stdout.splitlines()
        assert max(map(len, lines)) <= columns


def test_a_required_grade_decides_over_the_exit_code(run: Run, model: Path) -> None:
    assert run("audit", model, "--require", "b").exit_code == 0
    below = run("audit", model, "--require", "A")
    assert below.exit_code == 1
    assert re.search(r"FAIL: B: \d of 10 shown, .*; A is required", below.stderr)
    (model / "README.md").write_text("The model has 7B parameters.\n", encoding="utf-8")
    assert run("audit", model, "--require", "B").exit_code == 1
    assert run("audit", model, "--require", "F").exit_code == 0
    unknown = run("audit", model, "--require", "G")
    assert unknown.exit_code == 2
    assert "Choose from A, B, C, D, F" in unknown.stderr


def test_hostile_cards_and_answers_stay_text(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = "\x1b]0;owned\x07 ##[error] ::warning:: \u202egnp"
    monkeypatch.setattr("phi3quant.auditing.audit._answer", lambda _opened: f"{hostile}\n{hostile}")
    (model / "README.md").write_text(
        f"---\nlicense: {hostile}\nbase_model: {hostile}\n---\n# {hostile}\n* Layers: 3{hostile}\n",
        encoding="utf-8",
    )
    for words in (("audit", model, "--ask"), ("audit", model, "--ask", "--json")):
        shown = run(*words)
        assert shown.exit_code == 0, shown.output
        assert not set("\x1b\x07\u202e") & set(shown.output)
        assert "##[" not in shown.output


def test_bad_input_ends_with_a_message(run: Run, model: Path, tmp_path: Path) -> None:
    missing = run("audit", tmp_path / "nowhere")
    assert missing.exit_code == 2
    assert "there is no folder" in missing.stderr
    (tmp_path / "b.baseline").write_text("mine")
    spoiled = run("audit", model, "--baseline", tmp_path / "b.baseline")
    assert spoiled.exit_code == 3
    (model / "config.json").write_text("{")
    assert run("audit", model).exit_code == 2


def test_the_bundled_model_is_the_default(run: Run) -> None:
    result = run("audit")
    assert result.exit_code == 0
    assert "using the bundled phi3-tiny" in result.stderr
    assert "README.md, line 15: states 3,410,176" in result.stdout
