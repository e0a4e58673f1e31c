"""Samples, kept with the project so that an interrupted run can be resumed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peers.tools import TOOLS
from benchmarks.speed.plan import Size, Task


@dataclass(frozen=True)
class Sample:
    """One run of a task.

    Attributes:
        seconds: wall time, start-up and writing included.
        peak_bytes: largest resident set.
        refused: the tool's error message if it refused; otherwise None.
        machine: description of the machine.
        source: hash of the source code, from ``tools.source_of``.
        versions: versions of the tool's packages, by name.
    """

    seconds: float
    peak_bytes: int
    refused: str | None
    machine: str
    source: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Samples:
    """A file of samples.

    Attributes:
        path: the file, a JSON object.
        known: the samples by key.
    """

    path: Path
    known: dict[str, Sample]

    def add(self, key: str, sample: Sample) -> None:
        """Add a sample and save the file."""
        self.known[key] = sample
        entries = {key: asdict(self.known[key]) for key in sorted(self.known)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)


def open_samples(path: Path) -> Samples:
    """Read saved samples; none if the file doesn't exist."""
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return Samples(path, {key: Sample(**entry) for key, entry in entries.items()})


def key_of(task: Task, size: Size, number: int) -> str:
    """Key of a sample: task, size, number of the round and a hash of settings and versions."""
    wanted = hashlib.sha256(repr((asdict(task), TOOLS[task.tool].home)).encode()).hexdigest()
    amount = f"{size.samples} windows, {size.threads} threads"
    return f"{size.model}, {amount}, round {number + 1}, {task.title}, {wanted[:8]}"
