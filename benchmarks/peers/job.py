"""Jobs for tools, and the steps of a job."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.peers.environment import Environment, Home
from benchmarks.peers.process import Run, run

Settings: TypeAlias = Mapping[str, Any]
"""Options of a tool: group size, symmetry, method."""


@dataclass(frozen=True)
class Job:
    """A model to be quantized by a tool.

    Attributes:
        model: folder of the model.
        calib: calibration text, as an argument for phi3quant.
        samples, seq_len: number and length of the calibration windows.
        windows: file of the calibration windows, int64 [samples, seq_len] as .npy.
        words: file of the same windows as text.
        shared: folder for files that several jobs on this model share, such as an F16 GGUF file.
        folder: folder for this job only.
        threads: number of threads for the tool.
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
        """Folder for the tool's output."""
        return self.folder / "artifact"

    @property
    def plain(self) -> Path:
        """Folder for the plain checkpoint that a driver decodes from the artifact."""
        return self.folder / "plain"


@dataclass(frozen=True)
class Step:
    """A command.

    Attributes:
        command: program and arguments.
        makes: path of the result; the step is skipped if it exists. None: it always runs.
        timed: whether it is the tool's own work, not preparation or reading back.
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
        name: name in tables.
        plan: returns the steps of a job with given settings.
        home: its installation; None for phi3quant.
        decoded: whether the result is read from ``Job.plain``, because phi3quant can't read its
            format.
        sources: modules under benchmarks/ whose code affects its results.
    """

    name: str
    plan: Callable[[Job, Settings], Sequence[Step]]
    home: Home | None = None
    decoded: bool = False
    sources: tuple[str, ...] = ()

    def result(self, job: Job) -> Path:
        """Folder to score."""
        return job.plain if self.decoded else job.artifact


def perform(tool: Tool, job: Job, settings: Settings, *, reading: bool = True) -> Run:
    """Do a job.

    Args:
        tool: the tool.
        job: the job.
        settings: settings of the tool.
        reading: also run the steps that read the artifact back.

    Returns:
        Time and memory of the tool's own steps.

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
    """Function that makes the step of a driver's phase, with arguments for ``plain.parse_job``."""
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
