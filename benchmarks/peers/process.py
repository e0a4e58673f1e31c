"""Tools as processes: run time, peak memory, or the reason for a refusal."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import ROOT

_LAUNCH = ROOT / "benchmarks" / "peers" / "launch.py"
# Length limit of the reason, which is the last line of a failed tool's output.
_REASON_CHARACTERS = 400


class RefusedError(Exception):
    """A tool ended with an error; the message is the last line of its output."""


@dataclass(frozen=True)
class Run:
    """Wall time in seconds and peak resident memory in bytes."""

    seconds: float
    peak_bytes: int

    def then(self, other: "Run") -> "Run":
        """Total time and peak memory of this run followed by another."""
        return Run(self.seconds + other.seconds, max(self.peak_bytes, other.peak_bytes))


def run(
    command: Sequence[str | Path], log: Path, threads: int, variables: Mapping[str, str]
) -> Run:
    """Run a command to its end.

    Args:
        command: program and arguments, with absolute paths.
        log: file to which its output is appended. The command starts in its folder.
        threads: number of threads for its libraries.
        variables: environment variables, in addition to the current ones.

    Raises:
        RefusedError: the command ended with an error.
    """
    limits = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads)
    )
    # Drivers are modules of this project; downloads would distort the measured time.
    ours = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **limits, **ours, **variables}
    log.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as place, log.open("ab") as out:
        report = Path(place) / "report"
        # Isolated and without site packages, so that the interpreter stays small.
        launched = [sys.executable, "-I", "-S", _LAUNCH, report, *command]
        # Some tools leave files in the folder where they start.
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
