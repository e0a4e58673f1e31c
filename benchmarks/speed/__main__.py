"""``python -m benchmarks.speed``: measure missing samples, then write tables and plot.

python -m benchmarks.speed                       everything; many hours
python -m benchmarks.speed --shape mini-quarter --layers 1 --rounds 1
python -m benchmarks.speed --only llama --no-growth
"""

import os
from dataclasses import replace
from pathlib import Path

import click

from benchmarks import ROOT
from benchmarks.speed.measure import KEPT, measure
from benchmarks.speed.plan import TASKS, Size, Turn, comparisons, growth
from benchmarks.speed.report import write_report
from benchmarks.speed.sample import open_samples
from benchmarks.synthetic import SHAPES


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="mini-4k", show_default=True)
@click.option("--layers", default=2, show_default=True, help="Decoder blocks of the slice.")
@click.option("--samples", default=32, show_default=True, help="Calibration windows.")
@click.option("--threads", default=os.cpu_count() or 1, show_default=True)
@click.option(
    "--rounds", default=3, show_default=True, help="Rounds of comparisons; growth has one."
)
@click.option(
    "--only", multiple=True, help="Tasks with this in their name, and ours to compare them with."
)
@click.option("--growth/--no-growth", "with_growth", default=True, show_default=True)
@click.option("--renew", is_flag=True, help="Repeat samples of an older version of the source.")
@click.option("--report", is_flag=True, help="Only write the report; measure nothing.")
@click.option("--docs", type=click.Path(path_type=Path), default=ROOT / "docs", show_default=True)
def main(
    shape: str,
    layers: int,
    samples: int,
    threads: int,
    rounds: int,
    only: tuple[str, ...],
    *,
    with_growth: bool,
    renew: bool,
    report: bool,
    docs: Path,
) -> None:
    """Compare the time and memory of phi3quant and its peers on slices of a synthetic model."""
    base = Size(shape, layers, samples, threads)
    turns = [_only(turn, only) for turn in comparisons(base, rounds)]
    axes = {
        axis: [_only(turn, only) for turn in several]
        for axis, several in (growth(base, 1) if with_growth else {}).items()
    }
    kept = open_samples(KEPT)
    if not report:
        for turn in (*turns, *(turn for several in axes.values() for turn in several)):
            measure(turn, kept, renew=renew)
    write_report([turn for turn in turns if turn.tasks], axes, kept, docs)


def _only(turn: Turn, words: tuple[str, ...]) -> Turn:
    """The turn with the selected tasks, and with our tasks to which they are compared."""
    chosen = {
        name
        for name in turn.tasks
        if not words or any(word.lower() in TASKS[name].title.lower() for word in words)
    }
    chosen |= {beside for name in chosen if (beside := TASKS[name].beside) is not None}
    return replace(turn, tasks=tuple(name for name in turn.tasks if name in chosen))


if __name__ == "__main__":
    main()
