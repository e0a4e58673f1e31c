"""``phi3quant baseline create``, ``update`` and ``show``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from phi3quant.cli import options
from phi3quant.cli.display import progress_bars, use_threads
from phi3quant.cli.terminal import echo, print_json
from phi3quant.errors import OutputError
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.evaluation.metrics import plain
from phi3quant.evaluation.paired_statistics import PairedMean, paired_mean
from phi3quant.evaluation.perplexity import Score
from phi3quant.gating.baseline import Baseline, read_baseline
from phi3quant.gating.baselines import Recorded, create_baseline, update_baseline
from phi3quant.reporting import wording


@click.group()
def baseline() -> None:
    """Record what an artifact says of a text, for phi3quant check.

    \b
    phi3quant baseline create ./phi3-4bit -o phi3-4bit.baseline
    phi3quant baseline show phi3-4bit.baseline
    """


@baseline.command()
@click.argument("artifact", required=False)
@click.option("-o", "--output", type=options.OutputFile(), required=True, help="File to write.")
@click.option(
    "--reference",
    help="The model in full precision.  [default: what ARTIFACT's manifest names; a plain "
    "checkpoint itself]",
)
@click.option("--reason", default="created", show_default=True, help="Kept in the history.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@options.evaluation_text
@options.running
def create(artifact: str | None, **given: Any) -> None:
    """Score ARTIFACT and its original and keep the predictions of both in a file.

    \b
    phi3quant baseline create ./phi3-4bit -o phi3-4bit.baseline
    phi3quant baseline create model.gguf --reference ./my-finetune --text wiki.txt -o q4.baseline

    ARTIFACT is a folder, plain, quantized or ONNX, or a .gguf file; left out, the bundled
    phi3-tiny.
    """
    use_threads(given["threads"])
    output: Path = given["output"]
    if output.exists() and not given["overwrite"]:
        raise OutputError(
            f"{output} exists; change it with phi3quant baseline update, or pass --overwrite"
        )
    made = create_baseline(
        options.note_bundled(artifact, quiet=given["quiet"]),
        output,
        reference=given["reference"],
        text=EvaluationText(
            given["text"], given["text_field"], given["window"], given["max_tokens"]
        ),
        reason=given["reason"],
        overwrite=given["overwrite"],
        progress=progress_bars(quiet=given["quiet"]),
    )
    _print_recorded(made, as_json=given["as_json"])


@baseline.command()
@click.argument("artifact")
@click.option("--baseline", "path", type=options.OUTPUT_TYPE, required=True, help="File to change.")
@click.option("--reason", required=True, help="Why the change is meant; kept in the history.")
@click.option("--text", help="Where the baseline's text lies, if no longer where it lay.")
@options.running
def update(artifact: str, path: Path, reason: str, **given: Any) -> None:
    """Put ARTIFACT into a baseline in the place of the one before, for a stated reason.

    The predictions in full precision stay, so that the original isn't needed.

    \b
    phi3quant baseline update ./phi3-4bit --baseline phi3-4bit.baseline --reason "finer search"
    """
    use_threads(given["threads"])
    made = update_baseline(
        artifact,
        path,
        reason,
        text=given["text"],
        progress=progress_bars(quiet=given["quiet"]),
    )
    _print_recorded(made, as_json=given["as_json"])


@baseline.command()
@click.argument("path", type=options.OUTPUT_TYPE)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def show(path: Path, *, as_json: bool) -> None:
    """Show what a baseline holds and why it was changed.

    \b
    phi3quant baseline show phi3-4bit.baseline
    """
    found = read_baseline(path)
    shown = {**_described(found), "bytes": path.stat().st_size}
    if as_json:
        print_json(shown)
        return
    _print_described(found, shown)


def _described(found: Baseline) -> dict[str, Any]:
    beside = paired_mean(found.artifact_nll.double() - found.reference_nll.double())
    reference, artifact = (
        Score(losses.double()).perplexity for losses in (found.reference_nll, found.artifact_nll)
    )
    return {
        "text": dict(found.text),
        "reference": {**found.reference, "perplexity": plain(reference)},
        "artifact": {**found.artifact, "perplexity": plain(artifact)},
        "ratio": plain(beside.ratio),
        "ratio_95": [plain(value) for value in beside.interval],
        "tokens": found.tokens,
        "facts": dict(found.facts),
        "tools": dict(found.tools),
        "history": [dict(entry) for entry in found.history],
    }


def _print_described(found: Baseline, shown: dict[str, Any]) -> None:
    text, recipe = found.text, found.artifact.get("recipe")
    rows = [
        ("artifact", f"{found.artifact.get('name')}, {found.artifact.get('format')}"),
        ("recipe", _stated(recipe)),
        ("reference", f"{found.reference.get('name')}"),
        (
            "text",
            (
                f"{text.get('text')}, {text.get('windows')} windows of "
                f"{text.get('window_tokens')} tokens"
            ),
        ),
        (
            "perplexity",
            (
                f"{_figure(shown['artifact']['perplexity'])}, in full precision "
                f"{_figure(shown['reference']['perplexity'])}"
            ),
        ),
        (
            "ratio",
            f"{_figure(shown['ratio'])} ({wording.ends(shown['ratio_95'], text.get('windows'))})",
        ),
        ("size", f"{shown['bytes']:,} bytes, {shown['bytes'] / found.tokens:.0f} a token"),
        ("tools", ", ".join(f"{key} {value}" for key, value in found.tools.items())),
        *(
            (f"sha256 {name}", str(text.get(f"{name}_sha256")))
            for name in ("text", "vocabulary", "tokens")
        ),
        *(
            ("history", f"{entry.get('reason')} (phi3quant {entry.get('phi3quant')})")
            for entry in found.history
        ),
    ]
    for label, value in rows:
        echo(f"{label:<20}{value}")


def _stated(recipe: Any) -> str:
    if not isinstance(recipe, Mapping):
        return "not stated"
    return ", ".join(f"{key} {value}" for key, value in recipe.items())


def _print_recorded(made: Recorded, *, as_json: bool) -> None:
    if as_json:
        drift = made.drift
        print_json(
            {
                "baseline": str(made.path),
                "bytes": made.nbytes,
                "tokens": made.baseline.tokens,
                "ratio": plain(made.beside.ratio),
                "ratio_95": [plain(value) for value in made.beside.interval],
                "drift": plain(drift.ratio) if drift else None,
                "drift_95": [plain(value) for value in drift.interval] if drift else None,
            }
        )
        return
    echo(
        f"{made.path}: {made.baseline.tokens} tokens, {made.nbytes:,} bytes "
        f"({made.nbytes / made.baseline.tokens:.0f} a token)"
    )
    echo(f"perplexity is {_paired(made.beside.paired, 'full precision')}")
    if made.drift:
        echo(f"and {_paired(made.drift, 'the artifact before')}")


def _paired(measured: PairedMean, beside: str) -> str:
    ends = wording.ends(measured.interval, measured.windows)
    return f"{measured.ratio:.4f} of {beside} ({ends})"


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
