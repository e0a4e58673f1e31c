"""Benchmark reproducibility: stated results, the method behind them, and whether they fit."""

import math
import re
from collections.abc import Iterator
from typing import Any

from phi3quant.auditing.finding import Point, judged, not_shown, quoted, shown
from phi3quant.auditing.subject import Subject, mapping
from phi3quant.gating.baseline import Baseline
from phi3quant.gating.description import weights_of

_HEADINGS = ("benchmark", "evaluation", "results", "perplexity", "performance", "quality")
_METHOD = re.compile(
    r"\b(?:\d{1,3}-shot|few-shot|zero-shot|lm[-_ ]eval|harness|simple-evals|windows of|held-out|"
    r"seed \d|temperature (?:of )?0|sha-?256)\b",
    re.IGNORECASE,
)
_FIGURE = re.compile(r"\d")
_RATIO_SLACK = 1e-3
_HASHES = ("text_sha256", "tokens_sha256")


def benchmark_reproducibility(subject: Subject) -> Iterator[Point]:
    """Points on results of the card and of the manifest."""
    recorded = subject.manifest("verification")
    if recorded:
        yield from _recorded(subject)
    if subject.baseline is not None:
        yield from _baseline(subject, subject.baseline)
    lines = subject.card.section(*_HEADINGS) if subject.card else []
    figures = [line for line in lines if _FIGURE.search(line.text)]
    results = bool(figures) or bool(subject.card and "model-index" in subject.card.fields)
    if results:
        place = figures[0].place if figures else "README.md model-index"
        yield shown(place, f"results on {len(figures)} lines" if figures else "results")
        method = next((line for line in lines if _METHOD.search(line.text)), None)
        if method is not None:
            match = _METHOD.search(method.text)
            yield shown(method.place, f"method: {quoted(match[0] if match else '')}")
        else:
            yield not_shown(place, "the card doesn't state how its results were measured")
    elif not recorded:
        yield not_shown("", "no results are stated by a card or a manifest")


def _recorded(subject: Subject) -> Iterator[Point]:
    """Scores in the manifest: the text's hashes, and the ratio of the perplexities."""
    recorded, place = subject.manifest("verification"), "manifest verification"
    text = mapping(recorded.get("text"))
    digest = text.get("tokens_sha256")
    if isinstance(digest, str):
        yield shown(
            f"{place}.text",
            f"scored on {quoted(text.get('text'))}, {quoted(text.get('windows'))} windows of "
            f"{quoted(text.get('window_tokens'))} tokens, SHA-256 {quoted(digest[:16])}",
        )
    else:
        yield not_shown(f"{place}.text", "the hash of the scored tokens is missing")
    reference, artifact = (mapping(recorded.get(key)) for key in ("reference", "artifact"))
    first, second, ratio = (
        _number(reference.get("perplexity")),
        _number(artifact.get("perplexity")),
        _number(artifact.get("ratio")),
    )
    if first and second and ratio:
        holds = math.isclose(second / first, ratio, rel_tol=_RATIO_SLACK)
        end = "" if holds else f", which is {second / first:.4f}"
        yield judged(
            f"{place}.artifact.ratio",
            f"{ratio:.4f} for {second:.4f} / {first:.4f}{end}",
            holds=holds,
        )


def _baseline(subject: Subject, baseline: Baseline) -> Iterator[Point]:
    """The manifest's score against the baseline's, for the same weights on the same text."""
    recorded = subject.manifest("verification")
    text = mapping(recorded.get("text"))
    same_text = all(text.get(key) and text.get(key) == baseline.text.get(key) for key in _HASHES)
    same_weights = weights_of(baseline.artifact) == weights_of({"sha256": dict(subject.hashes)})
    stated = _number(mapping(recorded.get("artifact")).get("perplexity"))
    if same_text and same_weights and stated:
        measured = math.exp(float(baseline.artifact_nll.double().mean()))
        yield judged(
            "manifest verification.artifact.perplexity",
            f"{stated:.4f}; the baseline's recording gives {measured:.4f}",
            holds=math.isclose(stated, measured, rel_tol=_RATIO_SLACK),
        )


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 and math.isfinite(value) else None
