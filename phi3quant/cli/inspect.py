"""``phi3quant inspect``."""

from collections.abc import Mapping
from typing import Any

import click

from phi3quant.cli import options
from phi3quant.cli.layout import print_values
from phi3quant.cli.options import Running
from phi3quant.cli.terminal import print_json
from phi3quant.cli.threads import use_threads
from phi3quant.evaluation import inspection
from phi3quant.model.config import Phi3Config
from phi3quant.reporting import wording
from phi3quant.reporting.stated import listed, mapping, number
from phi3quant.source.adapter_reference import recorded_adapters
from phi3quant.units import count, size


@click.command()
@click.argument("model", required=False)
@options.REVISION
@options.RUNNING
def inspect(model: str | None, revision: str | None, running: Running) -> None:
    """Show a model's architecture, size, hashes and provenance.

    \b
    phi3quant inspect ./Phi-3-mini-4k-instruct
    phi3quant inspect ./phi3-4bit --json

    MODEL is a folder (a checkpoint, quantized or ONNX), a .gguf file, or a hub id; the default is
    the bundled phi3-tiny.
    """
    use_threads(running.threads)
    name = options.model_or_bundled(model, quiet=running.quiet)
    inspected = inspection.inspect(name, revision)
    if running.as_json:
        print_json(inspected.as_json())
        return
    nbytes = inspected.weight_bytes
    print_values(
        [
            ("model", inspected.name),
            ("format", inspected.format),
            *_architecture(inspected.config),
            ("parameters", f"{inspected.parameters:,}"),
            ("weights", f"{size(nbytes)} ({count(nbytes, 'byte')})"),
            ("bits a weight", f"{inspected.bits_per_weight:.3f} over all parameters"),
            ("", f"{inspected.linear_bits_per_weight:.3f} in the blocks' matrices"),
            *(("sha256", f"{digest}  {file}") for file, digest in inspected.sha256.items()),
            *_provenance(inspected.manifest),
        ]
    )


def _architecture(config: Phi3Config) -> list[tuple[str, str]]:
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    kind = (
        "MHA" if heads == kv_heads else f"GQA, {config.queries_per_key_value} query heads share one"
    )
    window = config.sliding_window
    sees = f", with a sliding window of {window}" if window else ""
    rotary = f"theta {config.rope_theta:g}, {config.rotary_dim} of {config.head_dim} values rotated"
    return [
        ("layers", str(config.num_hidden_layers)),
        ("widths", f"hidden {config.hidden_size}, intermediate {config.intermediate_size}"),
        ("heads", f"{heads} of {config.head_dim} values, {kv_heads} key-value ({kind})"),
        ("vocabulary", f"{config.vocab_size}{' (tied)' if config.tie_word_embeddings else ''}"),
        ("context", f"{config.max_position_embeddings} tokens{sees}"),
        ("rope", rotary + (", LongRoPE" if config.long_rope else "")),
    ]


def _provenance(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of a manifest, as far as it can be read: files come from anywhere."""
    source, recipe, tools, calibration, verified = (
        value if isinstance(value := manifest.get(key), Mapping) else {}
        for key in ("source", "recipe", "tools", "calibration", "verification")
    )
    rows = []
    if source:
        made = f"{source.get('name')}{_revision(source.get('revision'))}"
        rows.append(("made from", f"{made} by phi3quant {tools.get('phi3quant')}"))
    if isinstance(hashes := source.get("sha256"), Mapping):
        rows += [("source sha256", f"{digest}  {name}") for name, digest in hashes.items()]
    for adapter in recorded_adapters(source):
        rows.append(("with adapter", f"{adapter}{_revision(adapter.revision)}"))
    for adapter in listed(source.get("adapters")):
        hashes = mapping(mapping(adapter).get("sha256"))
        rows += [("adapter sha256", f"{digest}  {name}") for name, digest in hashes.items()]
    if recipe:
        rows.append(("recipe", _listed(recipe)))
    if calibration:
        line = (
            f"{calibration.get('windows')} windows of {calibration.get('window_tokens')} tokens "
            f"from {calibration.get('text')}, SHA-256 of the ids {calibration.get('tokens_sha256')}"
        )
        rows.append(("calibrated on", line))
    if isinstance(score := verified.get("artifact"), Mapping):
        rows.append(("verified", _verdict(score, mapping(verified.get("text")).get("windows"))))
    return rows


def _revision(revision: Any) -> str:
    return f", revision {revision}" if revision else ""


def _listed(values: Mapping[str, Any]) -> str:
    """Keys with their values, in one line."""
    return ", ".join(
        f"{key}: {_listed(value)}" if isinstance(value, Mapping) else f"{key} {value}"
        for key, value in values.items()
    )


def _verdict(score: Mapping[str, Any], windows: Any) -> str:
    perplexity, ratio, kl = (_number(score.get(key)) for key in ("perplexity", "ratio", "kl_mean"))
    between = wording.ends(score.get("ratio_95"), windows)
    return f"perplexity {perplexity}, {ratio} of full precision ({between}), KL {kl}"


def _number(value: Any) -> str:
    figure = number(value)
    return "unknown" if figure is None else f"{figure:.4f}"
