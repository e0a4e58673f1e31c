"""Text from outside never reaches a terminal, a log or a page as it came."""

import dataclasses
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from phi3quant.cli import terminal
from phi3quant.cli.main import main
from phi3quant.gating.baseline import read_baseline
from phi3quant.reporting import wording
from phi3quant.visible import in_json, in_log, in_markdown, in_table, one_line, visible

CLI = Path(terminal.__file__).parent
TITLE = "\x1b]0;owned\x07"
OBEYED = re.compile(r"^\s*::|##\w*\[", re.MULTILINE)
HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

Hostile = st.text(
    st.sampled_from("a ::##[]\\\n\r\t\x1b\x07\x9b\u202e\ud800|`<é") | st.characters(), max_size=30
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized") / "out"
    made = CliRunner().invoke(main, ["rtn", "-o", str(folder), "--no-verify", "--quiet"])
    assert made.exit_code == 0, made.output
    return folder


@pytest.fixture
def artifact(quantized: Path, tmp_path: Path) -> Path:
    shutil.copytree(quantized, tmp_path / "out")
    return tmp_path / "out"


def change(artifact: Path, key: str, value: object) -> None:
    path = artifact / "phi3quant.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, key: value}))


@given(Hostile)
def test_nothing_of_any_text_is_obeyed(text: str) -> None:
    for safe in (in_log(text), in_table(text)):
        assert not HARMFUL.search(safe)
        assert not OBEYED.search(safe)
    assert "\n" not in one_line(text) + in_markdown(text)


@given(Hostile, st.integers(0, 30))
def test_wrapped_text_is_obeyed_at_no_place(text: str, at: int) -> None:
    assert not OBEYED.search(in_table(text)[at:])


@given(st.text("abc é\n\t|[x]*_:#", max_size=40).filter(lambda text: not OBEYED.search(text)))
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert in_log(text) == visible(text) == text


@given(Hostile)
def test_json_keeps_its_values(text: str) -> None:
    shown = in_json(json.dumps({text: text}, ensure_ascii=False))
    assert json.loads(shown) == {text: text}
    assert not HARMFUL.search(shown)
    assert not OBEYED.search(shown)


@given(st.lists(Hostile, max_size=5))
def test_a_text_shown_in_pieces_is_as_safe_as_the_whole(pieces: list[str]) -> None:
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", shown)
        show = terminal.stream_text()
        for piece in (*pieces, "."):
            show(piece)
    assert shown.getvalue() == in_log("".join((*pieces, ".")))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<img src=x onerror=y>", r"\<img src=x onerror=y\>"),
        ("[x](http://y) **b** `c`", r"\[x\](http://y) \*\*b\*\* \`c\`"),
        ("two\nlines", "two lines"),
    ],
)
def test_markdown_reads_nothing_in_a_message(text: str, shown: str) -> None:
    assert in_markdown(text) == shown


def test_commands_print_through_the_terminal_module_alone() -> None:
    bare = re.compile(
        r"click\.(secho|echo|echo_via_pager)\(|\bprint\(|\bConsole\(|std(out|err)\.write"
    )
    for path in CLI.rglob("*.py"):
        if path.name != "terminal.py":
            lines = path.read_text(encoding="utf-8").splitlines()
            found = [line for line in lines if bare.search(line) and "console.print(" not in line]
            assert not found, path


@pytest.mark.parametrize("key", ["source", "recipe"])
def test_inspect_shows_a_manifest_without_its_escape_sequences(
    key: str, run: Callable[..., Result], artifact: Path
) -> None:
    change(artifact, key, {"name": f"x{TITLE}", "method": TITLE, "revision": "\n::error::x"})
    result = run("inspect", artifact)
    assert result.exit_code == 0, result.output
    assert "owned" in result.output
    assert not HARMFUL.search(result.output)
    assert not OBEYED.search(result.output)
    shown = json.loads(run("inspect", artifact, "--json").stdout)
    assert shown["manifest"][key]["method"] == TITLE


@pytest.mark.parametrize("name", ["x\n::error::injected", "##[error]injected", f"a{TITLE}"])
def test_a_file_name_in_a_manifest_gives_no_orders_to_a_log(
    name: str, run: Callable[..., Result], artifact: Path
) -> None:
    files = json.loads((artifact / "phi3quant.json").read_text())["files"]
    change(artifact, "files", {**files, name: {"sha256": "0" * 64, "bytes": 1}})
    for words in (("verify", artifact), ("verify", artifact, "--json")):
        result = run(*words)
        assert result.exit_code != 0
        assert not HARMFUL.search(result.output)
        assert not OBEYED.search(result.output)


@pytest.mark.parametrize("name", ["phi3[v2]", "[bold]x", "a[/x]b", "[link=http://x]y", ":smile:"])
def test_names_in_tables_are_no_markup(
    name: str, run: Callable[..., Result], quantized: Path, tmp_path: Path
) -> None:
    folder = tmp_path / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(quantized, folder)
    result = run("perplexity", name, "--max-tokens", 64, "--window", 32, "--quiet")
    assert result.exit_code == 0, result.output
    assert name in result.output


@pytest.mark.parametrize("error", ["no [/x] file\x1b[31m", "::error::x"])
def test_messages_are_safe_too(error: str, run: Callable[..., Result]) -> None:
    result = run("inspect", f"./{error}")
    assert result.exit_code == 2
    assert not HARMFUL.search(result.output)
    result = run("inspect", f"--{error}")
    assert result.exit_code == 2
    assert not HARMFUL.search(result.output)


def test_what_a_model_writes_gives_no_orders(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_given: object, tell: Callable[[str], None], **_named: object) -> SimpleNamespace:
        for piece in ("fine, é\n", ":", ":error::x\n#", "#[group]", TITLE, "\x1b[2J"):
            tell(piece)
        return SimpleNamespace()

    monkeypatch.setattr("phi3quant.cli.generate.generate_text", write)
    result = run("generate", "phi3-tiny", "Hi", "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stdout == ("fine, é\n:\\:error::x\n##\\[group]\ufffd]0;owned\ufffd\ufffd[2J\n")


def test_numbers_that_are_not_finite_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_json({"a": [float("inf"), 1.5], "b": (float("nan"), "é", None)})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": [None, "é", None]}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_stays_json_in_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding, write_through=True))
    terminal.print_json({"é 漢": "\ud800"})
    assert json.loads(raw.getvalue().decode(encoding)) == {"é 漢": "\ud800"}


@pytest.mark.parametrize(
    ("interval", "windows", "shown"),
    [
        ([0.99, 1.01], 8, "0.9900-1.0100"),
        ([0.65, 2.66], 4, "too few windows"),
        ([0.65, 2.66], 7.0, "too few windows"),
        ([0.99, 1.01], None, "0.9900-1.0100"),
        ([0.99, 1.01], "many", "0.9900-1.0100"),
        ((float("nan"), float("nan")), 1, "too few windows"),
        ([0.0, None], 8, wording.UNKNOWN),
        ([10**400, 1], 8, wording.UNKNOWN),
    ],
)
def test_intervals_of_too_few_windows_are_not_shown(
    interval: object, windows: object, shown: str
) -> None:
    assert wording.ends(interval, windows) == shown


def test_every_table_marks_an_interval_of_four_windows(
    run: Callable[..., Result], artifact: Path, tmp_path: Path
) -> None:
    text = ("--max-tokens", 256, "--window", 64)
    scored = run("perplexity", "phi3-tiny", artifact, *text, "--quiet")
    assert "too few windows" in scored.output
    page = run("report", artifact, *text, "--quiet", "-o", tmp_path / "report.html")
    assert page.exit_code == 0, page.output
    assert "too few windows" in page.output
    assert "too few windows" in (tmp_path / "report.html").read_text(encoding="utf-8")
    made = run("baseline", "create", artifact, *text, "-o", tmp_path / "b", "--quiet")
    assert "too few windows" in made.output
    assert "too few windows" in run("baseline", "show", tmp_path / "b").output
    assert "too few windows" in run("compare", "phi3-tiny", artifact, *text, "--quiet").output


@pytest.mark.parametrize("loss", [1e30, 800.0])
def test_a_baseline_of_infinite_perplexity_is_shown(
    loss: float, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_baseline(Path(__file__).parents[2] / "docs" / "ci" / "phi3-tiny.baseline")
    diverged = dataclasses.replace(found, artifact_nll=torch.full_like(found.artifact_nll, loss))
    monkeypatch.setattr("phi3quant.cli.baseline.read_baseline", lambda _path: diverged)
    Path("b").write_text("")
    shown = run("baseline", "show", "b")
    assert shown.exit_code == 0, shown.output
    assert "not finite, in full precision" in shown.output
    parsed = json.loads(run("baseline", "show", "b", "--json").stdout)
    assert parsed["artifact"]["perplexity"] is None
