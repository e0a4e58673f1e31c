"""Baselines as lines and as plain values."""

from collections.abc import Mapping
from typing import Any

from phi3quant.cli.layout import print_values
from phi3quant.cli.options import Running
from phi3quant.cli.terminal import echo, note, print_json
from phi3quant.evaluation.metrics import plain
from phi3quant.evaluation.paired_statistics import PairedMean, paired_mean
from phi3quant.evaluation.perplexity import Score
from phi3quant.gating.baseline import Baseline
from phi3quant.gating.baselines import Recorded
from phi3quant.reporting import wording
from phi3quant.units import count, size


def described(baseline: Baseline) -> dict[str, Any]:
    """A baseline as plain values."""
    ratio = paired_mean(baseline.artifact_nll.double() - baseline.reference_nll.double())
    reference, artifact = (
        Score(losses.double()).perplexity
        for losses in (baseline.reference_nll, baseline.artifact_nll)
    )
    return {
        "text": dict(baseline.text),
        "reference": {**baseline.reference, "perplexity": plain(reference)},
        "artifact": {**baseline.artifact, "perplexity": plain(artifact)},
        "ratio": plain(ratio.ratio),
        "ratio_95": [plain(value) for value in ratio.interval],
        "tokens": baseline.tokens,
        "facts": dict(baseline.facts),
        "tools": dict(baseline.tools),
        "history": [dict(entry) for entry in baseline.history],
    }


def print_described(baseline: Baseline, plain_values: Mapping[str, Any]) -> None:
    """Print a baseline.

    Args:
        baseline: it.
        plain_values: from ``described``, with the file's bytes.
    """
    text, artifact = baseline.text, baseline.artifact
    perplexity, original = (
        _figure(plain_values[model]["perplexity"]) for model in ("artifact", "reference")
    )
    scored = f"{text.get('windows')} windows of {text.get('window_tokens')} tokens"
    interval = wording.ends(plain_values["ratio_95"], text.get("windows"))
    print_values(
        [
            ("artifact", f"{artifact.get('name')}, {artifact.get('format')}"),
            ("recipe", _stated(artifact.get("recipe"))),
            ("reference", f"{baseline.reference.get('name')}"),
            ("text", f"{text.get('text')}, {scored}"),
            ("perplexity", f"{perplexity}, in full precision {original}"),
            ("ratio", f"{_figure(plain_values['ratio'])} ({interval})"),
            ("size", _per_token(plain_values["bytes"], baseline.tokens)),
            ("tools", ", ".join(f"{key} {value}" for key, value in baseline.tools.items())),
            *(
                (f"sha256 {name}", str(text.get(f"{name}_sha256")))
                for name in ("text", "vocabulary", "tokens")
            ),
            *(
                ("history", f"{entry.get('reason')} (phi3quant {entry.get('phi3quant')})")
                for entry in baseline.history
            ),
        ]
    )


def print_recorded(recorded: Recorded, running: Running) -> None:
    """Print a baseline that was just written, and how to use it."""
    if running.as_json:
        drift = recorded.drift
        print_json(
            {
                "baseline": str(recorded.path),
                "bytes": recorded.nbytes,
                "tokens": recorded.baseline.tokens,
                "ratio": plain(recorded.beside.ratio),
                "ratio_95": [plain(value) for value in recorded.beside.interval],
                "drift": plain(drift.ratio) if drift else None,
                "drift_95": [plain(value) for value in drift.interval] if drift else None,
            }
        )
        return
    tokens = recorded.baseline.tokens
    echo(f"{recorded.path}: {count(tokens, 'token')}, {_per_token(recorded.nbytes, tokens)}")
    echo(f"perplexity is {_paired(recorded.beside.paired, 'full precision')}")
    if recorded.drift:
        echo(f"and {_paired(recorded.drift, 'the artifact before')}")
    elif not running.quiet:
        note(f"next: phi3quant check ARTIFACT --baseline {recorded.path}")


def _per_token(nbytes: int, tokens: int) -> str:
    return f"{size(nbytes)} ({nbytes / tokens:.0f} bytes a token)"


def _paired(measured: PairedMean, reference: str) -> str:
    ends = wording.ends(measured.interval, measured.windows)
    return f"{measured.ratio:.4f} of {reference} ({ends})"


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def _stated(recipe: object) -> str:
    if not isinstance(recipe, Mapping):
        return "not stated"
    return ", ".join(f"{key} {value}" for key, value in recipe.items())
