"""Check the English of docstrings, comments and pages by the rules in scripts/prose.toml.

Each rule is a regular expression and the advice that is printed where it matches. ``# prose: ok``
on a line, or ``<!-- prose: ok -->`` in Markdown, exempts that line.
"""

import ast
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_FOLDERS = ("phi3quant", "converters", "calib", "tests", "benchmarks", "scripts")
_PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "docs/guide/*.md", "docs/api/*.md")
_EXEMPT = "prose: ok"


@dataclass(frozen=True)
class Rule:
    """A habit to avoid.

    Attributes:
        pattern: regular expression that finds it.
        advice: what to write in its place.
        places: any of ``docstring``, ``comment``, ``page``.
    """

    pattern: re.Pattern[str]
    advice: str
    places: frozenset[str]


@dataclass(frozen=True)
class Passage:
    """A piece of prose: where it starts, and what it is."""

    path: Path
    line: int
    kind: str
    text: str


def rules() -> list[Rule]:
    """The rules in prose.toml."""
    listed = tomllib.loads((ROOT / "scripts" / "prose.toml").read_text("utf-8"))["rule"]
    return [
        Rule(re.compile(rule["pattern"]), rule["advice"], frozenset(rule["places"]))
        for rule in listed
    ]


def passages() -> Iterator[Passage]:
    """All prose of the repository."""
    for folder in _FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield from _docstrings(path)
            yield from _comments(path)
    for pattern in _PAGES:
        for path in sorted(ROOT.glob(pattern)):
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                yield Passage(path, number, "page", line)


def _docstrings(path: Path) -> Iterator[Passage]:
    """String statements: docstrings of modules, classes, functions and attributes."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield Passage(path, node.lineno, "docstring", node.value.value)


def _comments(path: Path) -> Iterator[Passage]:
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield Passage(path, token.start[0], "comment", token.string)


def findings() -> Iterator[str]:
    """A line for each place where a rule applies."""
    known = rules()
    for passage in passages():
        for rule in known:
            if passage.kind not in rule.places:
                continue
            for match in rule.pattern.finditer(passage.text):
                before = passage.text[: match.start()]
                start = before.rfind("\n") + 1
                line = passage.text[start:].split("\n", 1)[0]
                if _EXEMPT not in line:
                    number = passage.line + before.count("\n")
                    place = f"{passage.path.relative_to(ROOT)}:{number}"
                    yield f"{place}: {match.group().strip()!r}: {rule.advice}"


def main() -> None:
    """Print all findings; exit with 1 if there are any."""
    lines = list(findings())
    print("\n".join(lines) if lines else "The prose follows the rules.")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
