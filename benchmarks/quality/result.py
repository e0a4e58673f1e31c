"""Results of entries, kept as JSON so that an interrupted run can be resumed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.tools import TOOLS
from benchmarks.quality.entries import Entry
from benchmarks.quality.subject import Subject


@dataclass(frozen=True)
class Result:
    """Result of an entry, or the reason for a refusal.

    Attributes:
        key: hash of the inputs, from ``key_of``.
        source: hash of the source code, from ``tools.source_of``.
        refused: the tool's error message if it refused; otherwise None.
        linear_bits: bits per weight of the blocks' matrices, scales and zeros included.
        file_bits: bits per weight of the whole model.
        seconds, peak_bytes: time and memory of the tool's own work.
        threads: number of threads for the tool.
        versions: versions of the tool's packages, by name.
        scores: phi3quant.evaluation.metrics.figures by the hash of each text, from
            ``Subject.text_hashes``. A text that was added later is missing.
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
    scores: Mapping[str, Mapping[str, Any]]

    def increase(self, text: str) -> float:
        """Relative increase of perplexity on a text that was scored."""
        return float(self.scores[text]["ratio"]) - 1


def key_of(entry: Entry, subject: Subject) -> str:
    """Hash of the model, calibration, settings and pinned versions of an entry."""
    home = repr(TOOLS[entry.tool].home)
    described = {"name": entry.name, "tool": entry.tool, "settings": entry.settings}
    wanted = {"entry": described, "subject": subject.identity, "home": home}
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()


def load_result(entry: Entry, subject: Subject) -> Result | None:
    """Saved result, regardless of its key; None if there is none."""
    path = _path(entry, subject)
    if not path.is_file():
        return None
    return Result(**json.loads(path.read_text(encoding="utf-8")))


def save_result(entry: Entry, subject: Subject, result: Result) -> None:
    """Save a result."""
    path = _path(entry, subject)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def slug(entry: Entry) -> str:
    """File name of an entry."""
    return "".join(c if c.isalnum() or c in "._" else "-" for c in entry.title)


def _path(entry: Entry, subject: Subject) -> Path:
    return subject.results / f"{slug(entry)}.json"
