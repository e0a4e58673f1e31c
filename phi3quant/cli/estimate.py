"""``phi3quant estimate``."""

import math
from dataclasses import dataclass, replace

import click

from converters.gguf.type_policy import FILE_TYPES
from phi3quant.cli import options, values
from phi3quant.cli.estimate_display import print_everything, print_first_screen
from phi3quant.cli.help_sections import SectionedCommand
from phi3quant.cli.options import OnnxLayout
from phi3quant.cli.terminal import print_json
from phi3quant.estimating.artifact import FORMATS, GGUF
from phi3quant.estimating.devices import Device, choose_devices, custom_device, known_devices
from phi3quant.estimating.estimate import Plan
from phi3quant.estimating.estimate import estimate as make_estimate
from phi3quant.estimating.members import Described, describe
from phi3quant.estimating.memory import LLAMA_KV
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.profiles import PROFILES, Profile
from phi3quant.source.locate import locate_adapter

EXIT_DOES_NOT_FIT = 3


@dataclass(frozen=True)
class _PlanOptions:
    """The artifact to estimate, and its use."""

    method: str
    bits: int
    group_size: int | None
    symmetric: bool
    kind: str
    profile: str | None
    gguf_type: str | None
    tensor_types: tuple[str, ...]
    contexts: tuple[int, ...] | None
    kv_type: str
    adapters: tuple[str, ...]


_PLAN = options.group(
    "wanted",
    _PlanOptions,
    click.option(
        "--method",
        type=click.Choice(["rtn", "awq", "gptq"]),
        default="awq",
        show_default=True,
        help="Method assumed for the memory needed to quantize.",
    ),
    options.BITS,
    click.option(
        "--group-size",
        type=values.GroupSize(),
        default=32,
        show_default=True,
        help="Weights that share a scale, or row.",
    ),
    click.option(
        "--sym/--asym",
        "symmetric",
        default=True,
        show_default=True,
        help="Symmetric codes, or codes with a zero point for each group.",
    ),
    click.option(
        "--format",
        "kind",
        type=values.Name("format", FORMATS),
        default=GGUF,
        show_default=True,
        help="Format for the memory and device tables; sizes are listed for all formats.",
    ),
    options.PROFILE,
    click.option(
        "--gguf-type",
        type=values.Name("GGUF type", FILE_TYPES),
        help=f"One of {', '.join(FILE_TYPES)}.  [default: the type that stores the codes]",
    ),
    options.MATRIX_TYPES,
    click.option(
        "--context",
        "contexts",
        type=values.Contexts(),
        help="Context in tokens, or several separated by commas.  [default: 1024,2048,4096]",
    ),
    click.option(
        "--kv",
        "kv_type",
        type=click.Choice(LLAMA_KV),
        default="f16",
        show_default=True,
        help="Type of the key-value cache for the devices; ONNX has its own.",
    ),
    options.ADAPTERS,
)


@dataclass(frozen=True)
class _DeviceOptions:
    """Devices to judge; all known ones if there are none."""

    devices: tuple[str, ...]
    memory: int | None
    bandwidth: float | None


_DEVICES = options.group(
    "chosen",
    _DeviceOptions,
    click.option(
        "--device",
        "devices",
        multiple=True,
        help="Device to judge; can be repeated.  [default: all known devices]",
    ),
    click.option(
        "--memory",
        type=values.Size(),
        help="Judge a device with this much memory for the model, such as 6GB or 6GiB.",
    ),
    click.option(
        "--bandwidth",
        type=click.FloatRange(min=0, min_open=True),
        help="Memory bandwidth of that device in GB/s, for the limit on its speed.",
    ),
)


@click.command(cls=SectionedCommand)
@options.MODEL
@_PLAN
@_DEVICES
@click.option("--all", "everything", is_flag=True, help="Print all tables, with every device.")
@click.option("--tensors", is_flag=True, help="List every tensor as well.")
@options.AS_JSON
@options.ONNX_OUTER
def estimate(
    model: str | None,
    wanted: _PlanOptions,
    chosen: _DeviceOptions,
    layout: OnnxLayout,
    *,
    everything: bool,
    tensors: bool,
    as_json: bool,
) -> None:
    """Estimate sizes, memory and fitting devices of a model before it is quantized.

    \b
    phi3quant estimate phi-3-mini-4k --bits 4 --context 4096
    phi3quant estimate phi-3.5-mini --device iphone-15-pro --device android-6gb
    phi3quant estimate ./my-finetune --gguf-type q4_k_m --memory 6GB
    phi3quant estimate phi-4-mini --profile hexagon --device snapdragon-8-elite
    phi3quant estimate phi-4-mini --format onnx --head int4 --all
    phi3quant estimate phi-4-mini --format mlx --tensor-type down_proj=int8

    MODEL is phi-3-mini-4k, phi-3-mini-128k, phi-3.5-mini, phi-3-medium-4k, phi-3-medium-128k,
    phi-4-mini, a folder or a config.json; no weights are needed. The default is the bundled
    phi3-tiny. Tensor sizes are exact, file sizes within 0.5 %. 1 GB is 10^9 bytes.

    Exit codes: 0 done, and every device given by --device or --memory fits (with an entitlement
    where there is one); 2 bad input; 3 one of them doesn't fit.
    """
    asked = _devices(chosen)
    described = _adapted(describe(model), wanted.adapters)
    estimated = make_estimate(described, _plan(wanted, layout), asked or known_devices())
    if as_json:
        print_json(estimated.as_json(tensors=tensors))
    elif everything or tensors:
        print_everything(estimated, tensors=tensors)
    else:
        print_first_screen(estimated, named_devices=bool(asked))
    if asked and not estimated.fits:
        raise click.exceptions.Exit(EXIT_DOES_NOT_FIT)


def _adapted(described: Described, adapters: tuple[str, ...]) -> Described:
    """The model with adapters merged; only their headers are read."""
    if not adapters:
        return described
    # Reading safetensors loads torch, which takes seconds.
    from phi3quant.source.adapter import adapted_config  # noqa: PLC0415

    located = tuple(map(locate_adapter, adapters))
    name = " + ".join([described.name, *map(str, located)])
    return replace(described, name=name, config=adapted_config(described.config, located))


def _plan(wanted: _PlanOptions, layout: OnnxLayout) -> Plan:
    if wanted.profile is not None:
        return _profiled(wanted, layout, PROFILES[wanted.profile])
    if wanted.gguf_type and wanted.kind != GGUF:
        raise click.UsageError("--gguf-type requires --format gguf.")
    return Plan(
        scheme=QuantScheme(wanted.bits, wanted.group_size, wanted.symmetric),
        method=wanted.method,
        format=wanted.kind,
        gguf_type=wanted.gguf_type,
        tensor_types=wanted.tensor_types,
        onnx=layout.options(),
        contexts=wanted.contexts,
        kv_type=wanted.kv_type,
    )


def _profiled(wanted: _PlanOptions, layout: OnnxLayout, profile: Profile) -> Plan:
    return Plan(
        scheme=profile.scheme,
        method=wanted.method,
        format=profile.format,
        gguf_type=wanted.gguf_type,
        tensor_types=wanted.tensor_types,
        profile=wanted.profile,
        onnx=replace(profile.onnx, **layout.chosen),
        contexts=wanted.contexts,
        kv_type=wanted.kv_type,
    )


def _devices(chosen: _DeviceOptions) -> list[Device]:
    bandwidth = chosen.bandwidth
    if bandwidth is not None and chosen.memory is None:
        raise click.UsageError("--bandwidth requires --memory; named devices have their own.")
    if not math.isfinite(bandwidth or 0):
        raise click.UsageError(f"--bandwidth {bandwidth} is not a finite number of GB/s.")
    devices = choose_devices(chosen.devices)
    if chosen.memory is not None:
        devices.append(custom_device(chosen.memory, bandwidth * 1e9 if bandwidth else None))
    return devices
