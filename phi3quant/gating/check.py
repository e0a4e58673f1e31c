"""Check of an artifact against a baseline: exact facts, then two gates on measured perplexity."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from phi3quant.errors import CheckpointError, ConfigError, SchemeError, TokenizerError
from phi3quant.evaluation.evaluate import Artifact
from phi3quant.evaluation.metrics import figures, perplexity_past, plain, worst_windows
from phi3quant.evaluation.paired_statistics import paired_mean
from phi3quant.evaluation.perplexity import Comparison, Score, scoring
from phi3quant.gating import facts
from phi3quant.gating.baseline import Baseline, read_baseline
from phi3quant.gating.belonging import baseline_windows, check_belongs
from phi3quant.gating.check_report import CheckReport, Finding
from phi3quant.gating.gate import DEFAULT_DRIFT, Gate, Verdict, default_budget
from phi3quant.gating.recorded import score_beside
from phi3quant.model.device import AUTO, find_device
from phi3quant.model.predictor import predictor
from phi3quant.progress import Progress, bars
from phi3quant.provenance.sealing import open_artifact
from phi3quant.source.locate import locate

BUDGET, DRIFT, DIVERGENCE = "budget", "drift", "divergence"
"""Names of the gates; the last one measures drift without the noise of the text's tokens."""

_BROKEN = (CheckpointError, ConfigError, SchemeError, TokenizerError)
"""Errors that a damaged artifact raises while it is opened or scored."""


@dataclass(frozen=True)
class Limits:
    """Limits on the increase of perplexity, as shares.

    Attributes:
        budget: limit against full precision; None to derive it from the baseline's bits per weight.
        drift: limit against the baseline.
        allow_underpowered: whether to pass, with a warning, if the text is too short for a verdict.
    """

    budget: float | None = None
    drift: float = DEFAULT_DRIFT
    allow_underpowered: bool = False


def check(
    artifact: str | Path,
    baseline_file: str | Path,
    limits: Limits | None = None,
    text: str | Path | None = None,
    *,
    progress: Progress = bars,
    device: str = AUTO,
) -> CheckReport:
    """Score an artifact that is read back from disk, and apply the gates.

    Args:
        artifact: plain or quantized folder, or GGUF file.
        baseline_file: file from ``phi3quant baseline create``.
        limits: limits of the gates; None for the defaults.
        text: current path of the baseline's text; None if it is unchanged.
        progress: display of the scoring.
        device: device to compute on; see phi3quant.model.device.find_device.

    Raises:
        NotComparableError: the baseline can't be used, or the artifact doesn't belong to it.
        InputError: the artifact, the baseline or the text is missing.
    """
    found = find_device(device)
    baseline = read_baseline(Path(baseline_file))
    located = locate(artifact)
    report = partial(CheckReport, str(artifact), str(baseline_file))
    try:
        opened = open_artifact(located)
        notes = check_belongs(opened, baseline)
        windows = baseline_windows(opened, baseline, text)
        with scoring(found, progress, predictor(opened.model).steps) as step:
            beside = score_beside(
                baseline.reference_nll, baseline.top, opened.model, windows, step, found
            )
    except _BROKEN as error:
        return report([Finding("artifact", Verdict.FAIL, str(error))])
    findings = [*_exact(opened, baseline), _finite(beside)]
    if beside.candidate.not_finite:
        return report(findings, notes=notes)
    gates = _gates(beside, baseline, limits or Limits())
    return report(
        [*findings, *_judged(gates)],
        gates,
        _metrics(beside, opened, baseline),
        worst_windows(beside, windows, opened.tokenizer.decode),
        [*notes, *(_within(gate) for gate in gates if gate.name != BUDGET and gate.creeping)],
        tolerant=bool(limits and limits.allow_underpowered),
    )


def _exact(opened: Artifact, baseline: Baseline) -> list[Finding]:
    """Findings on the facts that must be equal."""
    present = facts.facts(opened)
    same_kind = baseline.artifact.get("kind") == facts.kind(opened.model)
    changes = facts.changes(baseline.facts, present, same_kind=same_kind)
    equal = dict.fromkeys(changes, "as before")
    failed = facts.unrendered(present[facts.CHAT])
    if failed:
        equal[facts.CHAT] = (
            f"as before, by the template's text: it refuses {failed} of "
            f"{len(present[facts.CHAT])} trial chats"
        )
    return [
        Finding(name, Verdict.FAIL if lines else Verdict.PASS, "; ".join(lines) or equal[name])
        for name, lines in changes.items()
    ]


def _finite(beside: Comparison) -> Finding:
    bad = beside.candidate.not_finite
    return Finding(
        "finite",
        Verdict.FAIL if bad else Verdict.PASS,
        f"{bad} of {beside.candidate.tokens} tokens gave NaN or infinity",
    )


def _gates(beside: Comparison, baseline: Baseline, limits: Limits) -> list[Gate]:
    bits = baseline.artifact.get("bits_per_weight")
    budget = limits.budget
    if budget is None:
        budget = default_budget(bits if isinstance(bits, int | float) else 0.0)
    drift = paired_mean(beside.candidate.nll - baseline.artifact_nll.double())
    # ``drift`` averaged over the reference's predictions instead of the text's tokens. It is the
    # difference between two divergences from the reference, whose entropy cancels.
    expected = paired_mean(beside.kl - baseline.artifact_kl.double())
    return [
        Gate(BUDGET, "full precision", budget, beside.paired),
        Gate(DRIFT, "the baseline", limits.drift, drift),
        Gate(
            DIVERGENCE,
            "the baseline as full precision predicts it",
            limits.drift,
            expected,
            excludes=True,
        ),
    ]


def _judged(gates: Sequence[Gate]) -> list[Finding]:
    """Findings on the gates; if one measure of drift is underpowered, the other decides."""
    powered = {gate.name for gate in gates if gate.verdict is not Verdict.UNDERPOWERED}
    findings = []
    for gate in gates:
        other = {DRIFT: DIVERGENCE, DIVERGENCE: DRIFT}.get(gate.name)
        replaced = gate.name not in powered and other in powered
        verdict = Verdict.PASS if replaced else gate.verdict
        findings.append(
            Finding(gate.name, verdict, f"{gate}; {other} decides" if replaced else str(gate))
        )
    return findings


def _within(gate: Gate) -> str:
    low, high = gate.measured.interval
    return (
        f"surely worse than {gate.beside} ({low:.4f}-{high:.4f}), if within the limit of "
        f"{gate.limit:.2%}"
    )


def _metrics(beside: Comparison, opened: Artifact, baseline: Baseline) -> dict[str, Any]:
    window = opened.model.config.sliding_window
    past = {
        "perplexity_past_window": perplexity_past(beside.candidate, window),
        "reference_perplexity_past_window": perplexity_past(beside.reference, window),
    }
    return {
        **figures(beside, reference=False),
        "reference_perplexity": plain(beside.reference.perplexity),
        "baseline_kl_mean": plain(float(baseline.artifact_kl.mean())),
        "baseline_perplexity": plain(Score(baseline.artifact_nll.double()).perplexity),
        **{key: None if value is None else plain(value) for key, value in past.items()},
    }
