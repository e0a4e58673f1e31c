"""``phi3quant sweep``."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from phi3quant.errors import MissingExtraError
from phi3quant.reporting import drawing

GRID = """
models = ["{model}"]
[text]
source = "{prose}"
window = 64
max-tokens = 256
[[recipes]]
method = "rtn"
group-size = [16, 32]
export = "gguf,mlx"
sym = [true, false]
"""


@pytest.fixture
def grid(model: Path, prose: Path, tmp_path: Path) -> Path:
    path = tmp_path / "grid.toml"
    text = GRID.replace("group-size = [16, 32]", "group-size = 32")
    path.write_text(text.format(model=model, prose=prose), encoding="utf-8")
    return path


def test_a_sweep_prints_a_table_and_writes_a_page(run: Callable[..., Result], grid: Path) -> None:
    result = run("sweep", grid, "-o", "out", "--best-under", "1GB", "--junit", "out.xml")
    assert result.exit_code == 0, result.output
    assert "best under 1.00 GB" in result.stdout
    assert "[2/2]" in result.stderr
    assert Path("out/report.html").is_file()
    assert Path("out.xml").read_text().count("<testcase") == 5
    again = run("sweep", grid, "-o", "out", "--json", "-q")
    assert again.exit_code == 0, again.output
    assert again.stderr == ""
    assert len(json.loads(again.stdout)["reused"]) == 2


def test_a_missed_requirement_exits_with_1_and_keeps_the_results(
    run: Callable[..., Result], grid: Path
) -> None:
    result = run("sweep", grid, "-o", "out", "--require", "kl<0.0000001", "-q")
    assert result.exit_code == 1
    assert "Missed: 1," in result.stdout
    assert "Missed" in Path("out/report.html").read_text()
    assert run("sweep", grid, "-o", "out", "--require", "kl<10", "-q").exit_code == 0
    assert "Missed" not in Path("out/report.html").read_text()


def test_bad_input_exits_with_2_and_leaves_nothing(run: Callable[..., Result], grid: Path) -> None:
    for words, message in (
        ((grid, "-o", "out", "--require", "kl>1"), "would require a worse model"),
        (("none.toml", "-o", "out"), "none.toml can't be read"),
        (("-o", "out", "--models", "a"), "Pass a GRID, or both --models and --presets."),
        ((grid, "-o", "out", "--models", "./none"), "there is no folder ./none"),
        ((grid, "-o", "out", "--text", "./none"), "there is no text"),
        ((grid, "-o", "out", "--presets", "smalll"), "Did you mean small?"),
    ):
        result = run("sweep", *words)
        assert result.exit_code == 2, result.output
        assert message in result.stderr
        assert not any(path.is_file() for path in Path().rglob("*"))


def test_options_override_the_text_of_the_grid(run: Callable[..., Result], grid: Path) -> None:
    result = run("sweep", grid, "-o", "out", "--window", 32, "--json", "-q")
    assert result.exit_code == 0, result.output
    manifest = json.loads(next(Path("out/artifacts").glob("*/phi3quant.json")).read_text())
    text = manifest["verification"]["text"]
    assert (text["window_tokens"], text["windows"]) == (32, 8)


def test_without_matplotlib_the_sweep_runs_and_names_the_extra(
    run: Callable[..., Result], grid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise MissingExtraError("a page with figures", "report")

    monkeypatch.setattr(drawing, "check_drawing", missing)
    result = run("sweep", grid, "-o", "out")
    assert result.exit_code == 0, result.output
    assert "phi3quant[report]" in result.stderr
    assert not Path("out/report.html").exists()
