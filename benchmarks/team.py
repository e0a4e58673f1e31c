"""Processor time of a model that workers share on one machine, next to one process.

Each run is a command of its own with one thread per worker. The processor time is that of all its
processes; those of Ray itself are listed apart. Bytes of the weights are compared.

    python -m benchmarks.team --shape mini-quarter --layers 2 --samples 40
    python -m benchmarks.team --shape mini-half --layers 1 --workers 1,2,4 --json build/team.json
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks import machine
from benchmarks.synthetic import SHAPES, write_checkpoint

_MARK = "PHI3QUANT_BENCHMARK"
# Seconds between looks at the processes.
_LOOK = 0.2
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """Cost of a run.

    Attributes:
        workers: number of workers; 0: a single process without Ray.
        wall: seconds from start to end.
        computing: processor seconds of the workers and of the process that was started.
        daemons: processor seconds of Ray's own processes.
        digest: SHA-256 of the weights.
    """

    workers: int
    wall: float
    computing: float
    daemons: float
    digest: str


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="mini-quarter", show_default=True)
@click.option("--layers", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--samples", type=click.IntRange(min=1), default=40, show_default=True)
@click.option("--method", type=click.Choice(["awq", "gptq"]), default="awq", show_default=True)
@click.option("--workers", default="1,2,4", show_default=True, help="Sizes of teams.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="File for the samples.")
def main(
    shape: str, layers: int, samples: int, method: str, workers: str, output: Path | None
) -> None:
    """Measure teams on this machine."""
    with tempfile.TemporaryDirectory() as work:
        model = Path(work) / "model"
        write_checkpoint(model, shape, layers=layers)
        words = [method, str(model), "--samples", str(samples), "--threads", "1"]
        words += ["--no-verify", "-q"]
        rows = [_run(words, 0, Path(work))]
        for size in workers.split(","):
            rows.append(_run(words, int(size), Path(work)))
            _print(rows)
    if output is not None:
        output.write_text(json.dumps([vars(row) for row in rows], indent=2), encoding="utf-8")


def _print(rows: list[Sample]) -> None:
    plain = rows[0]
    click.echo(f"{machine.described()}, load {os.getloadavg()[0]:.1f}")
    click.echo("| workers | wall | processor time | overhead | Ray's processes | bytes |")
    click.echo("|---|---|---|---|---|---|")
    for row in rows:
        same = "the same" if row.digest == plain.digest else "DIFFERENT"
        click.echo(
            f"| {row.workers or 'no --ray'} | {row.wall:.1f} s | {row.computing:.1f} s "
            f"| {row.computing / plain.computing - 1:+.0%} | {row.daemons:.1f} s | {same} |"
        )


def _run(words: list[str], workers: int, work: Path) -> Sample:
    """Quantize in a process of its own, with a cluster that has a CPU for each worker."""
    out = work / f"out-{workers}"
    mark = os.environ[_MARK] = str(uuid.uuid4())
    seconds: dict[tuple[int, int], tuple[str, float]] = {}
    ended = threading.Event()
    watching = threading.Thread(target=_watch, args=(mark, seconds, ended))
    watching.start()
    try:
        with _cluster(workers) as ray:
            started = time.monotonic()
            command = [sys.executable, "-m", "phi3quant", *words, *ray, "-o", str(out)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            wall = time.monotonic() - started
    finally:
        ended.set()
        watching.join()
    computing = sum(used for name, used in seconds.values() if name == "computing")
    daemons = sum(used for name, used in seconds.values() if name == "daemons")
    return Sample(workers, wall, computing, daemons, _digest(out))


@contextmanager
def _cluster(workers: int) -> Iterator[list[str]]:
    """Options that use a cluster of one node; none without workers."""
    if not workers:
        yield []
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - an extra

    node = {"num_cpus": workers, "object_store_memory": 1 << 30}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        yield ["--ray", cluster.address, "--workers", str(workers)]
    finally:
        cluster.shutdown()


def _watch(
    mark: str, seconds: dict[tuple[int, int], tuple[str, float]], ended: threading.Event
) -> None:
    """Record the processor time of all processes with a mark in their environment."""
    while not ended.wait(_LOOK):
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                try:
                    sample = _process(folder, mark)
                except OSError:
                    continue
                if sample is not None:
                    start, name, used = sample
                    seconds[int(folder.name), start] = name, used


def _process(folder: Path, mark: str) -> tuple[int, str, float] | None:
    if f"{_MARK}={mark}".encode() not in (folder / "environ").read_bytes():
        return None
    words = (folder / "cmdline").read_text(errors="replace")
    fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    ours = "-m\0phi3quant" in words or words.startswith("ray::Worker")
    used = (int(fields[11]) + int(fields[12])) / _TICKS
    return int(fields[19]), "computing" if ours else "daemons", used


def _digest(out: Path) -> str:
    digests: Mapping[str, str] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())
    }
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


if __name__ == "__main__":
    main()
