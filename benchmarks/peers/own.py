"""phi3quant as one of the tools: its command line in this environment."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.peers.job import Job, Settings, Step

_PROGRAM: Sequence[str | Path] = (sys.executable, "-m", "phi3quant")


def plan(job: Job, settings: Settings) -> Sequence[Step]:
    """Steps of a job; the setting ``arguments`` has the command and its options, but no model."""
    command, *options = settings["arguments"]
    return _PLANS[command](job, options)


def _round(job: Job, options: Sequence[str]) -> Sequence[Step]:
    return [_quantizing(job, "rtn", options)]


def _calibrate(command: str) -> Callable[[Job, Sequence[str]], Sequence[Step]]:
    def made(job: Job, options: Sequence[str]) -> Sequence[Step]:
        samples = ["--samples", str(job.samples), "--seq-len", str(job.seq_len)]
        return [_quantizing(job, command, [*options, "--calib", job.calib, *samples])]

    return made


def _export(job: Job, options: Sequence[str]) -> Sequence[Step]:
    """Steps that export a shared RTN-quantized folder; with ``--type``, the model itself."""
    form, *rest = options
    if "--type" in rest:
        return [_writing(job, ["export", form, job.model, *rest])]
    packed = job.shared / "packed"
    rounded = [*_PROGRAM, "rtn", job.model, "--no-verify", "--quiet", "-o", packed]
    return [Step(rounded, packed, timed=False), _writing(job, ["export", form, packed, *rest])]


def _score(job: Job, options: Sequence[str]) -> Sequence[Step]:
    threads = ["--threads", str(job.threads)]
    return [Step([*_PROGRAM, "perplexity", job.model, *options, *threads, "--quiet"])]


def _quantizing(job: Job, command: str, options: Sequence[str]) -> Step:
    return _writing(job, [command, job.model, *options])


def _writing(job: Job, arguments: Sequence[str | Path]) -> Step:
    common = ["--no-verify", "--quiet", "--threads", str(job.threads)]
    return Step([*_PROGRAM, *arguments, *common, "-o", job.artifact])


_PLANS: Mapping[str, Callable[[Job, Sequence[str]], Sequence[Step]]] = {
    "rtn": _round,
    "awq": _calibrate("awq"),
    "gptq": _calibrate("gptq"),
    "export": _export,
    "perplexity": _score,
}
