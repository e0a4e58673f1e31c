"""Speed of encoding llama.cpp's types, compared with its C code (bindings of libgguf), on one core.

Times are processor time, the best of a few alternating tries. Kernels are compiled first, and the
bytes of both encoders are compared.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import click
import libgguf
import numpy as np
import torch

from phi3quant.quant.codecs.ggml_blocks import TYPES

QUANTIZED = [name for name, entry in TYPES.items() if entry.group > 1]


@click.command()
@click.option("--rows", default=3072, show_default=True)
@click.option("--columns", default=1024, show_default=True)
@click.option("--tries", default=3, show_default=True)
@click.option(
    "--type", "names", multiple=True, type=click.Choice(QUANTIZED), help="Only this type."
)
def main(rows: int, columns: int, tries: int, names: Sequence[str]) -> None:
    """Print millions of weights per second for every quantized type, and the ratio."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator)
    importance = torch.rand(columns, generator=generator)
    click.echo("type            phi3quant   libgguf   ratio")
    kinds = [TYPES[name] for name in names or QUANTIZED]
    for entry, given in product(kinds, (None, importance)):
        matrix = None if given is None else given.numpy()
        own = partial(entry.encode, weight, given)
        other = partial(libgguf.quantize_rows, weight.numpy(), entry.type, imatrix=matrix)
        if not np.array_equal(own(), other()):
            raise click.ClickException(f"{entry.name} differs from the reference")
        mine, theirs = (
            weight.numel() / min(tried) / 1e6
            for tried in zip(*((_seconds(own), _seconds(other)) for _ in range(tries)), strict=True)
        )
        name = entry.name if given is None else f"{entry.name} weighted"
        click.echo(f"{name:<15} {mine:>9.0f} {theirs:>9.0f} {mine / theirs:>7.1f}")


def _seconds(work: Callable[[], np.ndarray]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
