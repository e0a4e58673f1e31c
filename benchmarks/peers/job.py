"""What a tool is asked to do, and the steps in which it does that."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.peers.environment import Environment, Home
from benchmarks.peers.process import Run, run

Settings: TypeAlias = Mapping[str, Any]
"""A tool's own options: group size, symmetry, method."""


@dataclass(frozen=True)
class Job:
    """One model to be quantized by one tool.

    Attributes:
        model: its folder.
        calib: the calibration text as phi3quant takes it.
        samples, seq_len: of the windows that phi3quant takes of it: those of ``windows``.
        windows: file of the calibration windows, int64 [samples, seq_len] as .npy.
        words: file of the same windows as text.
        shared: folder of what several jobs on this model need, such as an F16 GGUF file.
        folder: of this job alone.
        threads: that it may use.
    """

    model: Path
    calib: str
    samples: int
    seq_len: int
    windows: Path
    words: Path
    shared: Path
    folder: Path
    threads: int

    @property
    def artifact(self) -> Path:
        """What the tool writes: a folder, or a file in it."""
        return self.folder / "artifact"

    @property
    def plain(self) -> Path:
        """The checkpoint that a driver decodes its artifact into."""
        return self.folder / "plain"


@dataclass(frozen=True)
class Step:
    """A command.

    Attributes:
        command: program and arguments.
        makes: left out if this is there already; None: it always runs.
        timed: whether it is the tool's own work, and not preparation or reading back.
        reads: whether it reads the artifact back.
    """

    command: Sequence[str | Path]
    makes: Path | None = None
    timed: bool = True
    reads: bool = False


@dataclass(frozen=True)
class Tool:
    """A quantizer.

    Attributes:
        name: for people.
        plan: the steps of a job with these settings.
        home: where it is installed; None: it is phi3quant.
        decoded: whether the result is read from ``Job.plain``, for want of a reader of its format.
        sources: modules under benchmarks/ whose text decides over its results.
    """

    name: str
    plan: Callable[[Job, Settings], Sequence[Step]]
    home: Home | None = None
    decoded: bool = False
    sources: tuple[str, ...] = ()

    def result(self, job: Job) -> Path:
        """What is to be scored."""
        return job.plain if self.decoded else job.artifact


def perform(tool: Tool, job: Job, settings: Settings, *, reading: bool = True) -> Run:
    """Do a job; gives the time and memory of the tool's own steps.

    Args:
        tool: what does it.
        job: what is done.
        settings: the tool's.
        reading: also read the artifact back, if that takes a driver.

    Raises:
        RefusedError: the tool ended with an error.
    """
    spent = Run(0.0, 0)
    variables = tool.home.variables if tool.home else {}
    for step in tool.plan(job, settings):
        if (step.makes and step.makes.exists()) or (step.reads and not reading):
            continue
        took = run(step.command, job.folder / "log.txt", job.threads, variables)
        spent = spent.then(took) if step.timed else spent
    return spent


def driver(
    environment: Environment, module: str, job: Job, settings: Settings
) -> Callable[..., Step]:
    """The command of a driver's phase, as ``plain.parse_job`` takes it."""
    given: dict[str, str | Path] = {
        "--model": job.model,
        "--windows": job.windows,
        "--artifact": job.artifact,
        "--plain": job.plain,
        "--threads": str(job.threads),
        "--settings": json.dumps(settings),
    }
    options: list[str | Path] = [part for pair in given.items() for part in pair]

    def phase(name: str) -> Step:
        command = [environment.python, "-m", module, name, *options]
        return Step(command, timed=name == "quantize", reads=name == "read")

    return phase
