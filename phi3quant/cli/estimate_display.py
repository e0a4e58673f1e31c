"""An estimate on one screen, or as tables with everything."""

from collections.abc import Iterator, Sequence

from phi3quant.cli.layout import print_table, print_text
from phi3quant.cli.terminal import echo
from phi3quant.estimating.artifact import ONNX, Artifact
from phi3quant.estimating.devices import Fit
from phi3quant.estimating.estimate import DeviceFit, Estimate
from phi3quant.estimating.memory import RunMemory
from phi3quant.units import size

_INDENT = "  "


def print_first_screen(estimate: Estimate, *, named_devices: bool) -> None:
    """Print the answers that most people look for; at 80 columns they fit 24 lines.

    Args:
        estimate: it.
        named_devices: print a table of the devices, since they were asked for.
    """
    _print_model(estimate)
    _print_chosen(estimate)
    print_text(f"or as {', '.join(_other_formats(estimate))}", indent=_INDENT)
    echo(f"\nmemory needed to run {_name(estimate.chosen)}:")
    print_table(*_memory_by_context(estimate.memory))
    echo()
    if named_devices:
        _print_devices(estimate)
    else:
        for line in _fitting(estimate):
            print_text(line, indent=2 * _INDENT)
    _print_cost(estimate)
    print_text("more: --all for every format and device, --tensors for every tensor")


def print_everything(estimate: Estimate, *, tensors: bool) -> None:
    """Print all tables.

    Args:
        estimate: it.
        tensors: with a row for each tensor.
    """
    chosen = estimate.chosen
    _print_model(estimate)
    _print_chosen(estimate)
    if tensors:
        echo()
        _print_tensors(chosen)
    echo()
    _print_formats(estimate)
    echo(f"\nmemory in use by {_name(chosen)}:")
    _print_memory(estimate.memory)
    print_text(
        "clean: mapped from the file; the system can drop it and read it again. dirty: cache and "
        "buffers, from one token at a time to a batch of 512 without flash attention and with a "
        "rearranged copy of the weights. needed: the weights once and the most of the rest."
    )
    echo()
    _print_devices(estimate)
    _print_cost(estimate)


def _print_model(estimate: Estimate) -> None:
    model = estimate.model
    schemes = estimate.plan.schemes(model.config)
    print_text(f"{model.name}: {model.parameters:,} parameters, {schemes}")
    for warning in estimate.warnings:
        print_text(f"note: {warning}", indent=_INDENT)


def _print_chosen(estimate: Estimate) -> None:
    chosen = estimate.chosen
    bits = chosen.bits_per_weight(estimate.model.parameters)
    print_text(
        f"{_name(chosen)}: {size(chosen.file_bytes)} on disk, {bits:.3f} bits a weight, "
        f"{chosen.nbytes:,} bytes of tensors",
        indent=_INDENT,
    )


def _name(artifact: Artifact) -> str:
    return artifact.name.replace("gguf", "GGUF").replace("onnx", "ONNX")


def _other_formats(estimate: Estimate) -> Iterator[str]:
    """Other formats with the scheme, each in its first form; formats of equal size together."""
    listed = {estimate.chosen.format, "gguf"}
    names_by_size: dict[str, list[str]] = {}
    for artifact in estimate.others:
        if artifact.format not in listed:
            listed.add(artifact.format)
            names = names_by_size.setdefault(size(artifact.file_bytes), [])
            names.append(artifact.format.replace("onnx", "ONNX"))
    for nbytes, names in names_by_size.items():
        yield f"{'/'.join(names)} ({nbytes})"
    if estimate.chosen.format != "gguf":
        yield "GGUF"


def _memory_by_context(entries: Sequence[RunMemory]) -> tuple[list[str], list[list[str]]]:
    contexts = list(dict.fromkeys(entry.context for entry in entries))
    kinds = list(dict.fromkeys(entry.kv_type for entry in entries))
    needed = {(entry.kv_type, entry.context): size(entry.needed) for entry in entries}
    headings = ["cache", *(f"{context:,} tokens" for context in contexts)]
    return headings, [[kind, *(needed[kind, context] for context in contexts)] for kind in kinds]


def _fitting(estimate: Estimate) -> Iterator[str]:
    """A line for each verdict, with the names of its devices."""
    context = max(entry.context for entry in estimate.memory)
    names: dict[Fit, list[str]] = {verdict: [] for verdict in Fit}
    for fit in estimate.verdicts:
        names[fit.verdict].append(fit.device.name)
    cache = "" if estimate.plan.format == ONNX else f" with a cache of {estimate.plan.kv_type}"
    yield f"at {context:,} tokens{cache}, {len(names[Fit.FITS])} of {len(estimate.verdicts)} fit:"
    for verdict, devices in names.items():
        if devices:
            yield f"{_INDENT}{verdict.value}: {', '.join(devices)}"


def _print_formats(estimate: Estimate) -> None:
    rows = [
        [
            f"{artifact.format}{' *' if artifact.tensors == estimate.chosen.tensors else ''}",
            artifact.kind,
            f"{artifact.nbytes:,}",
            size(artifact.file_bytes),
            f"{artifact.bits_per_weight(estimate.model.parameters):.3f}",
        ]
        for artifact in estimate.others
    ]
    print_table(["format", "type", "tensor bytes", "files", "bits a weight"], rows, words=2)


def _print_memory(entries: Sequence[RunMemory]) -> None:
    rows = []
    for entry in entries:
        low, high = entry.dirty
        windowed = "" if entry.kv_in_window == entry.kv else size(entry.kv_in_window)
        rows.append(
            [
                f"{entry.context:,} {entry.kv_type}",
                size(entry.kv),
                windowed,
                size(entry.weights),
                f"{low / 1e9:.2f}-{high / 1e9:.2f} GB",
                size(entry.needed),
            ]
        )
    headings = ["context, cache", "cache size", "in window", "clean", "dirty", "needed"]
    print_table(headings, rows)


def _print_devices(estimate: Estimate) -> None:
    context = max(entry.context for entry in estimate.memory)
    echo(f"{_name(estimate.chosen)} at {context:,} tokens:")
    rows = [_device_row(fit) for fit in estimate.verdicts]
    headings = ["device", "verdict", "app gets", "context", "entitled", "tokens/s"]
    print_table(headings, rows, words=2)
    print_text(
        "app gets: memory for one app, with Apple's entitlement in brackets. context, entitled: "
        "largest context that fits, without and with the entitlement. tokens/s: upper limit, from "
        "the bandwidth and the bytes of weights and cache that a token reads."
    )


def _device_row(fit: DeviceFit) -> list[str]:
    device = fit.device
    gets = f"{device.usable / 1e9:.2f}"
    if device.entitled is not None:
        gets += f" ({device.entitled / 1e9:.2f})"
    return [
        device.name,
        fit.verdict.value,
        f"{gets} GB",
        f"{fit.largest_context:,}",
        "" if fit.entitled_context is None else f"{fit.entitled_context:,}",
        "" if fit.ceiling is None else f"{fit.ceiling:.1f}",
    ]


def _print_cost(estimate: Estimate) -> None:
    low, high = estimate.cost.memory
    print_text(
        f"to quantize ({estimate.plan.method}): {low / 1e9:.1f} to {high / 1e9:.1f} GB of memory; "
        f"on disk {size(estimate.cost.source_bytes)} for the checkpoint in 16 bits and "
        f"{size(estimate.cost.output_bytes)} for the result",
        indent=_INDENT,
    )


def _print_tensors(artifact: Artifact) -> None:
    rows = [
        [tensor.name, tensor.type, " x ".join(map(str, tensor.shape)), f"{tensor.nbytes:,}"]
        for tensor in artifact.tensors
    ]
    print_table(["tensor", "type", "shape", "bytes"], rows, words=2)
