"""An estimate as tables."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from phi3quant.cli import terminal
from phi3quant.estimating.artifact import Artifact
from phi3quant.estimating.estimate import DeviceFit, Estimate
from phi3quant.estimating.memory import RunMemory

# Tables keep their width when piped into a file, where there is no terminal to measure.
_WIDTH = 110


def print_estimate(found: Estimate, *, tensors: bool) -> None:
    """Print all of it.

    Args:
        found: the estimate.
        tensors: with a line for each tensor.
    """
    console = terminal.console(_WIDTH)
    model, chosen = found.model, found.chosen
    console.print(f"{model.name}: {model.parameters:,} parameters, {found.plan.scheme}")
    for warning in model.warnings:
        console.print(f"note: {warning}")
    if tensors:
        console.print(_tensors(chosen))
    console.print(_sizes(found))
    console.print(f"{chosen.name}, memory in use:")
    console.print(_memory(found.memory))
    console.print(
        "clean: mapped from the file, can be dropped and read again. dirty: cache, buffers (the "
        "range is from one token at a time to a batch of 512 without flash attention), and at the "
        "most a rearranged copy of the weights. needed: the weights once, all else at its most."
    )
    context = max(entry.context for entry in found.memory)
    console.print(f"\n{chosen.name} at {context:,} tokens:")
    console.print(_devices(found.verdicts))
    console.print(
        "tokens/s: at most; bandwidth over the bytes of weights and cache that a token reads."
    )
    low, high = found.cost.memory
    console.print(
        f"\nto quantize ({found.plan.method}): {low / 1e9:.1f} to {high / 1e9:.1f} GB of memory "
        "(fitted to measured runs), "
        f"{found.cost.source_bytes / 1e9:.2f} GB of disk for the checkpoint in 16 bits and "
        f"{found.cost.output_bytes / 1e9:.2f} GB for the result"
    )


def _sizes(found: Estimate) -> Table:
    table = _table(("format", "kind"), ("tensor bytes", "files GB", "files GiB", "bits a weight"))
    for artifact in found.others:
        mark = " *" if artifact.tensors == found.chosen.tensors else ""
        table.add_row(
            f"{artifact.format}{mark}",
            artifact.kind,
            f"{artifact.nbytes:,}",
            f"{artifact.file_bytes / 1e9:.3f}",
            f"{artifact.file_bytes / 2**30:.3f}",
            f"{artifact.bits_per_weight(found.model.parameters):.3f}",
        )
    return table


def _memory(entries: Sequence[RunMemory]) -> Table:
    table = _table(
        ("context", "cache"),
        ("cache MiB", "in window", "clean GiB", "dirty GiB", "needed GiB", "needed GB"),
    )
    for entry in entries:
        low, high = entry.dirty
        windowed = "" if entry.kv_in_window == entry.kv else f"{entry.kv_in_window / 2**20:,.0f}"
        table.add_row(
            f"{entry.context:,}",
            entry.kv_type,
            f"{entry.kv / 2**20:,.0f}",
            windowed,
            f"{entry.weights / 2**30:.2f}",
            f"{low / 2**30:.2f}-{high / 2**30:.2f}",
            f"{entry.needed / 2**30:.2f}",
            f"{entry.needed / 1e9:.2f}",
        )
    return table


def _devices(verdicts: Sequence[DeviceFit]) -> Table:
    table = _table(
        ("device", "kind", "verdict"),
        ("app gets GiB", "largest context", "entitled", "tokens/s"),
    )
    for found in verdicts:
        device = found.device
        entitled = found.entitled_context
        gets = f"{device.usable / 2**30:.2f}"
        if device.entitled is not None:
            gets += f" ({device.entitled / 2**30:.2f})"
        table.add_row(
            device.name,
            device.kind,
            found.verdict.value,
            gets,
            f"{found.largest_context:,}",
            "" if entitled is None else f"{entitled:,}",
            "" if found.ceiling is None else f"{found.ceiling:.1f}",
        )
    return table


def _tensors(artifact: Artifact) -> Table:
    table = _table(("tensor", "type"), ("shape", "bytes"))
    for tensor in artifact.tensors:
        shape = " x ".join(map(str, tensor.shape))
        table.add_row(tensor.name, tensor.type, shape, f"{tensor.nbytes:,}")
    return table


def _table(texts: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in texts:
        table.add_column(heading, overflow="fold", no_wrap=heading in ("device", "verdict"))
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table
