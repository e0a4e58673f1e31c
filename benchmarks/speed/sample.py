"""What was measured, kept with the project so that a later run goes on where one ended."""

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
        refused: what the tool said when it refused; None if it did its work.
        machine: that it ran on.
        source: hash of the program that ran, from ``tools.source_of``.
        versions: of what the tool is made of, by name.
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
        """Keep a sample."""
        self.known[key] = sample
        entries = {key: asdict(self.known[key]) for key in sorted(self.known)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)


def open_samples(path: Path) -> Samples:
    """Read what was kept, if anything was."""
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return Samples(path, {key: Sample(**entry) for key, entry in entries.items()})


def key_of(task: Task, size: Size, number: int) -> str:
    """Changes with the task, the size, the number of the round, and the versions asked for."""
    wanted = hashlib.sha256(repr((asdict(task), TOOLS[task.tool].home)).encode()).hexdigest()
    amount = f"{size.samples} windows, {size.threads} threads"
    return f"{size.model}, {amount}, round {number + 1}, {task.title}, {wanted[:8]}"
