"""Every command of the guide, run as it stands."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from phi3quant.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [DOCS / "index.md", *sorted((DOCS / "guide").glob("*.md"))]
RUN, NOT_RUN = "sh", "console"
_BLOCK = re.compile(
    r"^(?:<!-- not run: (.+?) -->\n)?```(.*?)\n(.*?)^```$", re.DOTALL | re.MULTILINE
)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """The reason why a block of code isn't run, if any, its language, and the block."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(page: Path) -> list[str]:
    return [
        line
        for _reason, language, text in blocks(page)
        if language == RUN
        for line in text.replace("\\\n", " ").splitlines()
        if line.strip()
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_succeeds_in_turn(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert commands(page)
    for command in commands(page):
        name, *words = shlex.split(command)
        assert name == "phi3quant"
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, f"{command}\n{result.output}"
        written = words[words.index("-o") + 1] if "-o" in words else None
        assert written is None or Path(written).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_block_that_is_not_run_has_a_hidden_reason(page: Path) -> None:
    for reason, language, text in blocks(page):
        assert " " not in language, "readers see a title"
        skipped = language == NOT_RUN or (language != RUN and "phi3quant" in text)
        assert bool(reason) == skipped, text


def test_the_torch_of_the_install_lines_is_the_pinned_one() -> None:
    (pinned,) = re.findall(
        r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    for page in (ROOT / "README.md", DOCS / "index.md"):
        assert re.findall(r"install torch==(\S+)", page.read_text(encoding="utf-8")) == [pinned]


def test_every_page_is_in_the_navigation_or_in_a_list_of_its_folder() -> None:
    named = re.findall(r"[\w/.-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert {str(page.relative_to(DOCS)) for page in PAGES} <= set(named)
    decisions = (DOCS / "adr" / "README.md").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        name = str(page.relative_to(DOCS))
        assert name in named or page.name in decisions, name


def test_make_docs_treats_warnings_as_errors_and_runs_in_ci() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "mkdocs build --strict" in makefile.split("\ndocs:")[1].split("\n\n")[0]
    assert re.search(
        r"^make .*\bdocs\b", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert yaml.safe_load((ROOT / "mkdocs.yml").read_text())["theme"]["font"] is False
