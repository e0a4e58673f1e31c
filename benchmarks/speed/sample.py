"""What was measured, kept line by line so that an interrupted run goes on where it was."""

import ast
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import ROOT
from benchmarks.peers.tools import TOOLS, sources
from benchmarks.speed.plan import Size, Task


@dataclass(frozen=True)
class Sample:
    """One run of a task.

    Attributes:
        seconds: wall time, start-up and writing included.
        peak_bytes: largest resident set.
        refused: what the tool said when it refused; None if it did its work.
    """

    seconds: float
    peak_bytes: int
    refused: str | None


@dataclass(frozen=True)
class Samples:
    """A file of samples.

    Attributes:
        path: the file, a JSON object on each line.
        known: the samples by key.
    """

    path: Path
    known: dict[str, Sample]

    def add(self, key: str, sample: Sample) -> None:
        """Keep a sample."""
        self.known[key] = sample
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, **asdict(sample)}) + "\n")


def open_samples(path: Path) -> Samples:
    """Read what was kept; an interrupted last line doesn't count."""
    known = {}
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        key = entry.pop("key")
        known[key] = Sample(**entry)
    return Samples(path, known)


def key_of(task: Task, size: Size, number: int) -> str:
    """Changes with the task, the size, the number of the round, versions asked for, and source."""
    tool = TOOLS[task.tool]
    digest = hashlib.sha256(repr((asdict(task), size, tool.home)).encode())
    for file in sources(tool, ROOT):
        # As parsed, so that comments and form don't count.
        digest.update(ast.dump(ast.parse(file.read_bytes())).encode())
    return f"{task.title}, {size.model}, round {number}, {digest.hexdigest()[:16]}"
