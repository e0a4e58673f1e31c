"""Model of a team's speed: time and bytes of one block of Phi-3-mini by the number of nodes.

Bytes follow from the shapes (ADR 0033); tests compare them with those that a team exchanges.
Processor times of a block were measured on one core (docs/cluster.md names the command).

    python -m benchmarks.team_scaling --samples 64 --cores 8 --gigabits 10
"""

import json
from dataclasses import dataclass

import click

from benchmarks.synthetic import SHAPES
from calib.capture import TILE
from calib.share import Share
from phi3quant.model.architecture import BLOCK_TENSORS, LINEARS
from phi3quant.model.config import Phi3Config, parse_config
from phi3quant.run.one_block import SEARCH_TOKENS
from phi3quant.run.window_counts import held_back_windows
from phi3quant.source.bundled import bundled_folder
from phi3quant.team import owners

_FULL = 4
# Bytes of a weight's code, with its share of a scale.
_CODE = 1 + 2 / 32


@dataclass(frozen=True)
class Traffic:
    """Bytes that a member receives for one block.

    Attributes:
        batches: activations of other members' batches.
        sums: stripes that other members have computed.
        codes: codes of linears and rows that other members have chosen.
    """

    batches: float
    sums: float
    codes: float

    @property
    def total(self) -> float:
        """All bytes."""
        return self.batches + self.sums + self.codes


def traffic(
    config: Phi3Config, windows: int, length: int, members: int, product_bytes: int = _FULL
) -> Traffic:
    """Bytes that a member receives on average for a block of AWQ with compensation.

    Args:
        config: configuration of the model.
        windows: calibration windows, with those that are held back.
        length: tokens per window.
        members: number of members.
        product_bytes: bytes of a number in products (see phi3quant.model.precision).
    """
    learned = Share(windows - held_back_windows(windows), length)
    tokens = learned.tokens(learned.batches)
    searched = learned.tokens(learned.enough(SEARCH_TOKENS))
    shapes = {name: BLOCK_TENSORS[name].shape(config) for name in LINEARS}
    others = (members - 1) / members
    batches = sums = codes = 0.0
    for name, (rows, width) in shapes.items():
        residual = rows if name in ("o_proj", "down_proj") else 0
        batches += others * _FULL * width * searched
        # The inputs whole, and the columns of both differences that this member sums.
        differences = product_bytes * (width + residual) / members
        batches += others * tokens * (_FULL * width + differences)
        sums += others * _FULL * (width**2 / 2 * 2 + width**2 + residual * width)
        # Plain rounding, the choice of the method, and compensated rows.
        codes += others * 3 * _CODE * rows * width
    return Traffic(batches, sums, codes)


@dataclass(frozen=True)
class Seconds:
    """Processor seconds of one core for a block of mini-4k, by how a team shares them.

    Attributes:
        learned: forward passes for a thousand learned tokens; shared by batches.
        searched: the same for a thousand tokens of the search.
        sums: sums of products for a thousand learned tokens; shared by stripes.
        searched_sums: the same for a thousand tokens of the search.
        judged: forward passes for a thousand held-back tokens; shared by batches.
        linears: search of scales and codes; shared by linears.
        rows: correction and compensation; shared by rows.
        every: factors and the rest, which every member does.
    """

    learned: float
    searched: float
    sums: float
    searched_sums: float
    judged: float
    linears: float
    rows: float
    every: float


# Shares of a profile with 32 windows (docs/cluster.md), of 214 s (docs/cluster.md, costs).
MEASURED = Seconds(
    learned=3.9,
    searched=1.8,
    sums=3.1,
    searched_sums=1.0,
    judged=14.6,
    linears=19.2,
    rows=26.8,
    every=14.8,
)


def seconds(config: Phi3Config, windows: int, length: int, members: int, cores: int) -> float:
    """Seconds of a block on nodes of ``cores`` cores, without the network."""
    held_back = held_back_windows(windows)
    learned, judged = Share(windows - held_back, length), Share(held_back, length)
    searched = learned.enough(SEARCH_TOKENS)
    widths = [BLOCK_TENSORS[name].shape(config) for name in LINEARS]
    stripes = [float(TILE)] * sum(-(-columns // TILE) * 2 for _, columns in widths)
    linears = [columns * (rows + 8.0 * columns) for rows, columns in widths]
    work = (
        MEASURED.learned * _most(learned, learned.batches, members),
        MEASURED.searched * _most(learned, searched, members),
        MEASURED.sums * learned.tokens(learned.batches) / 1000 * _largest(stripes, members),
        MEASURED.searched_sums * learned.tokens(searched) / 1000 * _largest(stripes, members),
        MEASURED.judged * _most(judged, judged.batches, members),
        MEASURED.linears * _largest(linears, members),
        MEASURED.rows / members,
        MEASURED.every,
    )
    return sum(work) / cores


def _most(share: Share, batches: int, members: int) -> float:
    """Thousands of tokens of the member with the most, of the first batches."""
    rounds = -(-batches // members)
    return min(share.tokens(batches), rounds * share.batch * share.length) / 1000


def _largest(costs: list[float], members: int) -> float:
    """Share of the busiest member."""
    ranks = owners(costs, members)
    busy = [sum(c for c, rank in zip(costs, ranks, strict=True) if rank == r) for r in set(ranks)]
    return max(busy) / sum(costs)


@click.command()
@click.option("--samples", default=64, show_default=True, help="Calibration windows.")
@click.option("--cores", default=8, show_default=True, help="Cores of a node.")
@click.option("--gigabits", default=10.0, show_default=True, help="Network of a node, Gbit/s.")
def main(samples: int, cores: int, gigabits: float) -> None:
    """Print a table for Phi-3-mini."""
    config = parse_config(
        json.loads((bundled_folder() / "config.json").read_text("utf-8")) | SHAPES["mini-4k"]
    )
    alone = seconds(config, samples, 512, 1, cores)
    click.echo("| nodes | computing | received | network | a block | speed-up | efficiency |")
    click.echo("|---|---|---|---|---|---|---|")
    for members in (1, 2, 4, 8, 16, 32, 64):
        computing = seconds(config, samples, 512, members, cores)
        received = traffic(config, samples, 512, members).total
        network = received * 8 / (gigabits * 1e9)
        speed_up = alone / (computing + network)
        click.echo(
            f"| {members} | {computing:.1f} s | {received / 1e9:.1f} GB | {network:.1f} s "
            f"| {computing + network:.1f} s | {speed_up:.1f} | {speed_up / members:.0%} |"
        )


if __name__ == "__main__":
    main()
