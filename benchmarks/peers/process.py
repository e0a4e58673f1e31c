"""Run a tool as a process of its own: its seconds, its peak memory, or why it refused."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import ROOT

_LAUNCH = ROOT / "benchmarks" / "peers" / "launch.py"
# Of a failed tool's output, the last line that says something; longer ones are cut.
_REASON_CHARACTERS = 400


class RefusedError(Exception):
    """A tool ended with an error; the message is the last thing that it said."""


@dataclass(frozen=True)
class Run:
    """Wall time in seconds and peak resident memory in bytes."""

    seconds: float
    peak_bytes: int

    def then(self, other: "Run") -> "Run":
        """Both, one after the other."""
        return Run(self.seconds + other.seconds, max(self.peak_bytes, other.peak_bytes))


def run(
    command: Sequence[str | Path], log: Path, threads: int, variables: Mapping[str, str]
) -> Run:
    """Run a command to its end.

    Args:
        command: program and arguments; paths are absolute.
        log: file for all that it says; appended to. The command is started in its folder.
        threads: that its libraries may use.
        variables: of its environment, besides ours.

    Raises:
        RefusedError: it ended with an error.
    """
    limits = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads)
    )
    # Drivers are modules of this project, and nothing may be fetched while the clock runs.
    ours = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **limits, **ours, **variables}
    log.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as place, log.open("ab") as out:
        report = Path(place) / "report"
        # Isolated and without site packages: as small as an interpreter gets.
        launched = [sys.executable, "-I", "-S", _LAUNCH, report, *command]
        # Some tools leave files where they are started.
        subprocess.run(
            launched, stdout=out, stderr=out, env=environment, cwd=log.parent, check=True
        )
        seconds, peak, code = report.read_text(encoding="utf-8").split()
    if int(code):
        raise RefusedError(_reason(log, int(code)))
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(float(seconds), int(peak) * unit)


def _reason(log: Path, code: int) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    last = said[-1] if said else "it said nothing"
    return f"exit code {code}: {last[:_REASON_CHARACTERS]}"
