"""``phi3quant inspect``."""

from collections.abc import Mapping
from typing import Any

import click

from phi3quant.cli import options
from phi3quant.cli.display import use_threads
from phi3quant.cli.terminal import echo, print_json
from phi3quant.evaluation import inspection
from phi3quant.model.config import Phi3Config
from phi3quant.reporting import wording
from phi3quant.reporting.stated import mapping, number


@click.command()
@click.argument("path", required=False)
@options.common
def inspect(
    path: str | None, revision: str | None, threads: int | None, *, quiet: bool, as_json: bool
) -> None:
    """Show a model's architecture, parameters, sizes, hashes and how it was made.

    \b
    phi3quant inspect ./Phi-3-mini-4k-instruct
    phi3quant inspect ./phi3-4bit --json

    PATH is a folder, plain, quantized or ONNX, a .gguf file, or a hub id; left out, it is the
    bundled phi3-tiny.
    """
    use_threads(threads)
    found = inspection.inspect(options.note_bundled(path, quiet=quiet), revision)
    if as_json:
        print_json(found.as_json())
        return
    size = found.weight_bytes
    rows = [
        ("model", found.name),
        ("format", found.format),
        *_architecture(found.config),
        ("parameters", f"{found.parameters:,}"),
        ("weights", f"{size:,} bytes = {size / 1e9:.3f} GB = {size / 2**30:.3f} GiB"),
        ("bits a weight", f"{found.bits_per_weight:.3f} over all parameters"),
        ("", f"{found.linear_bits_per_weight:.3f} in the blocks' matrices"),
        *(("sha256", f"{digest}  {name}") for name, digest in found.sha256.items()),
        *_provenance(found.manifest),
    ]
    for label, value in rows:
        echo(f"{label:<16}{value}")


def _architecture(config: Phi3Config) -> list[tuple[str, str]]:
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    kind = "MHA" if heads == kv_heads else f"GQA, {config.queries_per_key_value} queries share one"
    window = config.sliding_window
    rotary = f"theta {config.rope_theta:g}, {config.rotary_dim} of {config.head_dim} values rotate"
    return [
        ("layers", str(config.num_hidden_layers)),
        ("widths", f"hidden {config.hidden_size}, intermediate {config.intermediate_size}"),
        ("heads", f"{heads} of {config.head_dim} values, {kv_heads} key-value ({kind})"),
        ("vocabulary", f"{config.vocab_size}{' (tied)' if config.tie_word_embeddings else ''}"),
        (
            "context",
            f"{config.max_position_embeddings} tokens"
            + (f", each sees the last {window}" if window else ""),
        ),
        ("rope", rotary + (", LongRoPE" if config.long_rope else "")),
    ]


def _provenance(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a manifest says, as far as it can be read: files come from anywhere."""
    source, recipe, tools, calibration, verified = (
        value if isinstance(value := manifest.get(key), Mapping) else {}
        for key in ("source", "recipe", "tools", "calibration", "verification")
    )
    rows = []
    if source:
        revision = f", revision {source['revision']}" if source.get("revision") else ""
        tool = tools.get("phi3quant")
        rows.append(("made from", f"{source.get('name')}{revision} by phi3quant {tool}"))
    if isinstance(hashes := source.get("sha256"), Mapping):
        rows += [("source sha256", f"{digest}  {name}") for name, digest in hashes.items()]
    if recipe:
        rows.append(("recipe", _listed(recipe)))
    if calibration:
        rows.append(
            (
                "calibrated on",
                (
                    f"{calibration.get('windows')} windows of {calibration.get('window_tokens')} "
                    f"tokens from {calibration.get('text')}, SHA-256 of the ids "
                    f"{calibration.get('tokens_sha256')}"
                ),
            )
        )
    if isinstance(score := verified.get("artifact"), Mapping):
        rows.append(("verified", _verdict(score, mapping(verified.get("text")).get("windows"))))
    return rows


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
    found = number(value)
    return "unknown" if found is None else f"{found:.4f}"
