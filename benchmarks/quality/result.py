"""What is known of an entry, kept as JSON so that an interrupted run goes on where it was."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.tools import TOOLS
from benchmarks.quality.entries import Entry
from benchmarks.quality.subject import Subject


@dataclass(frozen=True)
class Result:
    """A row, or why there is none.

    Attributes:
        key: hash of what it is of, from ``key_of``.
        source: hash of the program that made it, from ``tools.source_of``.
        refused: what the tool said when it refused; None if it made a model.
        linear_bits: stored for each weight of the blocks' matrices, scales and zeros included.
        file_bits: of the whole model over all its weights.
        seconds, peak_bytes: of the tool's own work.
        threads: that it was given.
        versions: of what it is made of, by name.
        scores: for each text, phi3quant.evaluation.metrics.figures.
    """

    key: str
    source: str
    refused: str | None
    linear_bits: float
    file_bits: float
    seconds: float
    peak_bytes: int
    threads: int
    versions: Mapping[str, str]
    scores: Sequence[Mapping[str, Any]]

    def increase(self, text: int) -> float:
        """By how much perplexity grew on a text, as a share."""
        return float(self.scores[text]["ratio"]) - 1


def key_of(entry: Entry, subject: Subject) -> str:
    """Changes with the model, calibration, texts, settings and versions asked for."""
    home = repr(TOOLS[entry.tool].home)
    wanted = {"entry": asdict(entry), "subject": subject.identity, "home": home}
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()


def load_result(entry: Entry, subject: Subject) -> Result | None:
    """The result that was kept, whatever its key; None if there is none."""
    path = _path(entry, subject)
    if not path.is_file():
        return None
    return Result(**json.loads(path.read_text(encoding="utf-8")))


def save_result(entry: Entry, subject: Subject, result: Result) -> None:
    """Keep a result."""
    path = _path(entry, subject)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def slug(entry: Entry) -> str:
    """A name for files."""
    return "".join(c if c.isalnum() or c in "._" else "-" for c in entry.title)


def _path(entry: Entry, subject: Subject) -> Path:
    return subject.results / f"{slug(entry)}.json"
