"""Fuzz the readers: ``make fuzz SECONDS=60``, ``make fuzz SECONDS=600 READER=gguf``."""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import click
import torch

from tests.fuzz.readers import READERS, make_base
from tests.fuzz.trial import try_case

_KEPT = Path("build/fuzz")


@click.command()
@click.option("--seconds", type=click.FloatRange(1), default=60.0, help="Time for each reader.")
@click.option("--reader", type=click.Choice(list(READERS)), help="Only this one.")
@click.option("--seed", type=int, default=0, show_default=True)
def fuzz(seconds: float, reader: str | None, seed: int) -> None:
    """Spoil valid files and read them; cases that go wrong are kept in build/fuzz."""
    torch.set_num_threads(1)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        base.mkdir()
        make_base(base)
        for name in [reader] if reader else READERS:
            failed += _fuzz(name, base, Path(folder) / "case", seconds, seed)
    sys.exit(bool(failed))


def _fuzz(name: str, base: Path, place: Path, seconds: float, seed: int) -> int:
    end, number, codes, failed = time.monotonic() + seconds, 0, dict[int, int](), 0
    while time.monotonic() < end:
        trial = try_case(READERS[name], base, place, f"{name} {seed} {number}")
        codes[trial.code] = codes.get(trial.code, 0) + 1
        if trial.problem:
            failed += 1
            kept = _KEPT / name.replace(" ", "-") / f"{seed}-{number}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(place, kept, symlinks=True)
            click.echo(f"{kept}: {' '.join(trial.words)}\n{trial.problem}", err=True)
        number += 1
    ends = ", ".join(f"{count} with code {code}" for code, count in sorted(codes.items()))
    click.echo(f"{name}: {number} cases, {failed} problems ({ends})")
    return failed


if __name__ == "__main__":
    fuzz()
