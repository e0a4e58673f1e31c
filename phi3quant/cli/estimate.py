"""``phi3quant estimate``."""

import math
import re
from typing import Any

import click

from converters.gguf.type_policy import FILE_TYPES
from converters.onnx.options import OnnxOptions
from phi3quant.cli import options
from phi3quant.cli.estimate_display import print_estimate
from phi3quant.cli.terminal import print_json
from phi3quant.estimating.artifact import FORMATS, GGUF
from phi3quant.estimating.devices import choose_devices, custom_device, known_devices
from phi3quant.estimating.estimate import Plan
from phi3quant.estimating.estimate import estimate as make_estimate
from phi3quant.estimating.members import describe
from phi3quant.estimating.memory import LLAMA_KV
from phi3quant.quant.scheme import QuantScheme

EXIT_DOES_NOT_FIT = 3

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20}
_UNITS |= {"GIB": 1 << 30, "K": 10**3, "M": 10**6, "G": 10**9}


class Memory(click.ParamType[int]):
    """Bytes such as ``6GiB``, ``3.1GB`` or ``800MiB``."""

    name = "memory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the number."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(
            r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([A-Z]*)", str(value).strip().upper()
        )
        if match is None or match[2] not in _UNITS or not float(match[1]):
            self.fail(f"{value!r} is no memory; write 6GiB or 3.1GB", param, ctx)
        return int(float(match[1]) * _UNITS[match[2]])


class Contexts(click.ParamType[tuple[int, ...]]):
    """Numbers of tokens, separated by commas."""

    name = "contexts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the numbers; how long they may be is the model's business."""
        if isinstance(value, tuple):
            return value
        words = [word.strip().replace("_", "") for word in str(value).split(",")]
        if not all(re.fullmatch(r"[0-9]{1,12}", word) and int(word) > 0 for word in words):
            self.fail(f"{value!r} is no context; write 4096, or 1024,2048,4096", param, ctx)
        return tuple(sorted({int(word) for word in words}))


@click.command()
@click.argument("model", required=False)
@click.option(
    "--method",
    type=click.Choice(["rtn", "awq", "gptq"]),
    default="awq",
    show_default=True,
    help="Of quantizing, for the memory that it takes.",
)
@click.option("--bits", type=int, default=4, show_default=True, help="Bits of a code: 4 or 8.")
@click.option(
    "--group-size",
    type=options.GroupSize(),
    default=32,
    show_default=True,
    help="Weights that share a scale, or row.",
)
@click.option("--sym/--asym", "symmetric", default=True, help="Symmetric codes.  [default: --sym]")
@click.option(
    "--format",
    "kind",
    type=click.Choice(FORMATS),
    default=GGUF,
    show_default=True,
    help="Whose memory and devices to tell; sizes are told of all.",
)
@click.option(
    "--gguf-type",
    help=f"{', '.join(FILE_TYPES)}, in any case.  [default: the one that holds the codes]",
)
@click.option(
    "--context",
    "contexts",
    type=Contexts(),
    help="Tokens, one number or several with commas.  [default: 1024,2048,4096]",
)
@click.option(
    "--kv",
    "kv_type",
    type=click.Choice(LLAMA_KV),
    default="f16",
    show_default=True,
    help="Type of the cache for the verdicts; ONNX keeps its own.",
)
@click.option(
    "--device",
    "devices",
    multiple=True,
    help="A device by name; may be repeated.  [default: all, as a table]",
)
@click.option("--memory", type=Memory(), help="A device with so much for the model, such as 6GiB.")
@click.option(
    "--bandwidth",
    type=click.FloatRange(min=0, min_open=True),
    help="Of --memory's device, in GB/s, for the limit of its speed.",
)
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@options.onnx_outer
def estimate(model: str | None, **given: Any) -> None:
    """Tell sizes, memory and devices of a model that needn't be there yet.

    \b
    phi3quant estimate phi-3-mini-4k --bits 4 --context 4096
    phi3quant estimate phi-3.5-mini --device iphone-15-pro --device galaxy-s24-ultra
    phi3quant estimate ./my-finetune --gguf-type q4_k_m --memory 6GiB --bandwidth 51.2
    phi3quant estimate phi-4-mini --format onnx --embedding int4 --tensors --json

    MODEL is phi-3-mini-4k, phi-3-mini-128k, phi-3.5-mini, phi-3-medium-4k, phi-3-medium-128k,
    phi-4-mini, or a folder or a config.json, of which nothing else is read but the tokenizer; left
    out, it is the bundled phi3-tiny. Sizes of tensors are exact, those of files within 0.5 %.

    Exit codes: 0 done, and it fits all devices that were asked for (with an entitlement where
    there is one); 2 bad input; 3 it doesn't fit one of them.
    """
    if given["bandwidth"] is not None and given["memory"] is None:
        raise click.UsageError("--bandwidth belongs to --memory; named devices have their own")
    if not math.isfinite(given["bandwidth"] or 0):
        raise click.UsageError(f"--bandwidth {given['bandwidth']} is not a finite number of GB/s")
    if given["gguf_type"] and given["kind"] != GGUF:
        raise click.UsageError("--gguf-type goes with --format gguf")
    outer = {key: given[key] for key in ("embedding", "head", "io") if given[key]}
    plan = Plan(
        scheme=QuantScheme(given["bits"], given["group_size"], given["symmetric"]),
        method=given["method"],
        format=given["kind"],
        gguf_type=given["gguf_type"],
        onnx=OnnxOptions(**outer),
        contexts=given["contexts"],
        kv_type=given["kv_type"],
    )
    asked = choose_devices(given["devices"])
    if given["memory"] is not None:
        bandwidth = given["bandwidth"]
        asked.append(custom_device(given["memory"], bandwidth * 1e9 if bandwidth else None))
    found = make_estimate(describe(model), plan, asked or known_devices())
    if given["as_json"]:
        print_json(found.as_json(tensors=given["tensors"]))
    else:
        print_estimate(found, tensors=given["tensors"])
    if asked and not found.fits:
        raise click.exceptions.Exit(EXIT_DOES_NOT_FIT)
