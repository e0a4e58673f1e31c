"""A model's card, README.md, read as data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from phi3quant.auditing.card.front_matter import parse_front_matter, split_front_matter

CARD = "README.md"
MAX_BYTES = 1 << 20
"""Bytes of a card that are read; the rest of a longer one is left out."""
_LINE, _LINES, _HEADING = 4000, 20_000, 100
_FENCES = ("```", "~~~")


@dataclass(frozen=True)
class Line:
    """A line of a card.

    Attributes:
        number: counted from 1.
        text: without the line break.
        section: lower-case heading above it.
        code: whether it stands in a fenced block.
    """

    number: int
    text: str
    section: str
    code: bool

    @property
    def place(self) -> str:
        """Citation of the line."""
        return f"{CARD}, line {self.number}"


@dataclass(frozen=True)
class Card:
    """A model's card.

    Attributes:
        fields: front matter, see parse_front_matter.
        lines: the body.
        truncated: whether the file is longer than what is read of it.
    """

    fields: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lines: Sequence[Line] = ()
    truncated: bool = False

    def stated(self, key: str) -> Sequence[str]:
        """Values of a key of the front matter; empty if it is missing."""
        return self.fields.get(key, ())

    @property
    def title(self) -> str:
        """First heading; empty if there is none."""
        headings = (line.text for line in self.lines if not line.code)
        return next((text.lstrip("# ").strip() for text in headings if text.startswith("# ")), "")

    @property
    def prose(self) -> Iterator[Line]:
        """Lines outside of code."""
        return (line for line in self.lines if not line.code and line.text.strip())

    def section(self, *words: str) -> list[Line]:
        """Lines with text under headings that contain one of ``words``, without the headings."""
        return [
            line
            for line in self.lines
            if line.text.strip()
            and not line.text.startswith("#")
            and any(word in line.section for word in words)
        ]


def read_card(folder: Path, *, required_mark: bool = False) -> Card | None:
    """The card in a folder; None if there is none that can be read.

    Args:
        folder: of the model.
        required_mark: whether a card must begin with front matter; for folders that may hold any
            README.md.
    """
    text, truncated = read_beginning(folder / CARD)
    if text is None:
        return None
    lines = [line[:_LINE].rstrip() for line in text.removeprefix("\ufeff").split("\n")]
    front, start = split_front_matter(lines)
    if required_mark and not start:
        return None
    cut = truncated or len(lines) > _LINES
    return Card(parse_front_matter(front), tuple(_body(lines[:_LINES], start)), cut)


def read_beginning(path: Path) -> tuple[str | None, bool]:
    """First MAX_BYTES of a text file and whether it is longer; None if it can't be read."""
    try:
        if not path.is_file():
            return None, False
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError):
        return None, False
    return data[:MAX_BYTES].decode("utf-8", "replace"), len(data) > MAX_BYTES


def _body(lines: Sequence[str], start: int) -> Iterator[Line]:
    section, fence = "", ""
    for number, text in enumerate(lines[start:], start + 1):
        mark = text.lstrip()[:3]
        is_fence = mark in _FENCES and fence in ("", mark)
        if is_fence:
            fence = "" if fence else mark
        elif not fence and text.startswith("#"):
            section = text.lstrip("# ")[:_HEADING].lower()
        yield Line(number, text, section, bool(fence) or is_fence)
