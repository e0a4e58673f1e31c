"""Tables lose no figure and no name at any width."""

import io

import pytest
from rich.cells import cell_len

from phi3quant.cli import layout, terminal

HEADINGS = ["model", "size", "perplexity", "ratio", "95 % interval", "mean KL", "same top"]
NAMES = ["./Phi-3-mini-4k-instruct", "build/demo/rtn", "build/demo/awq"]
FIGURES = [
    ["7.64 GB", "2.154 ±0.044", "", "", "", ""],
    ["2.43 GB", "2.159 ±0.044", "1.0020", "1.0013-1.0028", "0.0015", "95.7 %"],
    ["2.43 GB", "2.156 ±0.044", "1.0007", "too few windows", "0.0006", "97.5 %"],
]
ROWS = [[name, *figures] for name, figures in zip(NAMES, FIGURES, strict=True)]
WIDTHS = [160, 110, 80, 60, 45, 32]


def printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    layout.print_table(HEADINGS, ROWS)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_keeps_every_figure_whole_at_any_width(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(capsys, monkeypatch, width)
    assert max(map(len, lines)) <= width
    for row in FIGURES:
        for figure in filter(None, row):
            assert sum(figure in line for line in lines) >= 1, figure


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_keeps_both_ends_of_every_name(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(capsys, monkeypatch, width)
    for name in NAMES:
        (line,) = (line for line in lines if line.startswith(name[:5]) and name[-4:] in line)
        assert line.startswith(name) or "..." in line


def test_a_table_of_80_columns_is_a_table_and_one_of_60_is_in_blocks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [["build/demo/rtn", *FIGURES[1]], ["build/demo/awq", *FIGURES[1]]]
    monkeypatch.setenv("COLUMNS", "80")
    layout.print_table(HEADINGS, rows)
    heading, _, first, second = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == HEADINGS[:3]
    assert first.startswith("build/demo/rtn ")
    assert second.startswith("build/demo/awq ")
    monkeypatch.setenv("COLUMNS", "60")
    layout.print_table(HEADINGS, rows)
    assert "  mean KL        0.0015" in capsys.readouterr().out.splitlines()


def test_names_that_shortening_makes_equal_are_shown_in_blocks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ["experiments/first-attempt/out-4bit", "experiments/other-attempt/out-4bit"]
    layout.print_table(["model", "size"], [[name, "7.64 GB"] for name in names], width=24)
    assert capsys.readouterr().out.count("  size  7.64 GB") == 2


def test_a_column_of_text_is_wrapped_between_words(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["onnx", "int4 sym g32, embedding int8, head int8", "2.49 GB"]]
    layout.print_table(["format", "type", "size"], rows, words=2, width=40)
    assert capsys.readouterr().out.splitlines()[2:] == [
        "onnx    int4 sym g32, embedding  2.49 GB",
        "        int8, head int8",
    ]


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("phi3-tiny", 9, "phi3-tiny"),
        ("phi3-tiny-awq", 9, "phi...awq"),
        ("漢字漢字漢字", 9, "漢 ...字"),
        ("abcdef", 3, "..."),
    ],
)
def test_names_are_shortened_in_their_middle(text: str, width: int, shown: str) -> None:
    assert layout.shortened(text, width) == shown
    assert cell_len(shown) <= width


def test_values_wrap_under_themselves_and_stay_on_their_line_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("rope", "theta 10000, 32 of 96 values rotated"), ("sha256", "f" * 64)]
    monkeypatch.delenv("COLUMNS", raising=False)
    layout.print_values(rows)
    assert len(capsys.readouterr().out.splitlines()) == 2
    monkeypatch.setenv("COLUMNS", "30")
    layout.print_values(rows)
    assert capsys.readouterr().out.splitlines() == [
        "rope    theta 10000, 32 of 96",
        "        values rotated",
        f"sha256  {'f' * 64}",
    ]


@pytest.mark.parametrize("width", [100, 45])
def test_answers_stand_side_by_side_where_there_is_room(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    layout.print_side_by_side([("out", "one\ntwo"), ("phi3-tiny", "three")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert (["one", "three"] in lines) == (width == 100)
    assert sorted(word for line in lines for word in line if word.isalpha()) == [
        *("one", "out", "three", "two")
    ]


def test_a_table_fits_in_ascii_too(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    layout.print_table(HEADINGS, ROWS)
    lines = raw.getvalue().decode("ascii").splitlines()
    assert max(map(len, lines)) <= 80
    assert "2.159 +-0.044" in raw.getvalue().decode("ascii")


@pytest.mark.parametrize(("columns", "width"), [("72", 72), ("3", 20), ("wide", 110), ("", 110)])
def test_columns_of_the_environment_count(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal.width(110) == width
