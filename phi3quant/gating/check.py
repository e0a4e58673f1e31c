"""Hold an artifact against a baseline: exact checks, then the two gates on measured perplexity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from phi3quant.errors import (
    CheckpointError,
    ConfigError,
    NotComparableError,
    SchemeError,
    TokenizerError,
)
from phi3quant.evaluation.evaluate import Artifact, EvaluationText, text_windows
from phi3quant.evaluation.inspection import hashes
from phi3quant.evaluation.metrics import WorstWindow, figures, perplexity_past, plain, worst_windows
from phi3quant.evaluation.paired_statistics import paired_mean
from phi3quant.evaluation.perplexity import Comparison, Score
from phi3quant.gating import facts
from phi3quant.gating.baseline import Baseline, read_baseline
from phi3quant.gating.description import weights_of
from phi3quant.gating.gate import DEFAULT_DRIFT, Gate, Verdict, default_budget
from phi3quant.gating.recorded import score_beside
from phi3quant.model.predictor import predictor
from phi3quant.progress import Progress, bars
from phi3quant.provenance import manifest
from phi3quant.provenance.integrity import check_hashes, has_hashes
from phi3quant.provenance.sealing import open_artifact
from phi3quant.source.locate import locate

SCHEMA_VERSION = 1
"""Of the report as JSON; docs/check.schema.json is its schema."""

BUDGET, DRIFT, DIVERGENCE = "budget", "drift", "divergence"
"""The gates; the last measures drift too, without the noise of which tokens the text has."""

_WORST_FIRST = (Verdict.FAIL, Verdict.NOT_COMPARABLE, Verdict.UNDERPOWERED)
_EXIT_CODES = {
    Verdict.PASS: 0,
    Verdict.FAIL: 1,
    Verdict.NOT_COMPARABLE: 3,
    Verdict.UNDERPOWERED: 3,
}
_TEXT_HASHES = {"text_sha256": "the SHA-256", "tokens_sha256": "the SHA-256 of the token ids"}

_BROKEN = (CheckpointError, ConfigError, SchemeError, TokenizerError)
"""What a damaged artifact ends with when it is opened or computed with."""


@dataclass(frozen=True)
class Limits:
    """How much worse an artifact may be, as shares of perplexity.

    Attributes:
        budget: against full precision; None: by the bits that the baseline's recipe spends.
        drift: against the baseline.
        allow_underpowered: pass, with a warning, where the text is too short to tell.
    """

    budget: float | None = None
    drift: float = DEFAULT_DRIFT
    allow_underpowered: bool = False


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes:
        name: of the check.
        verdict: what it says.
        message: the figures, or what is wrong.
    """

    name: str
    verdict: Verdict
    message: str


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        artifact, baseline: as they were given.
        findings: exact checks and gates, in the order of their making.
        gates: the gates among them, with their figures.
        metrics: figures beside full precision; empty if nothing could be scored.
        worst: the windows where most was lost against full precision.
        notes: what is worth knowing and fails nothing.
        tolerant: whether being underpowered passes.
    """

    artifact: str
    baseline: str
    findings: Sequence[Finding]
    gates: Sequence[Gate] = ()
    metrics: Mapping[str, Any] | None = None
    worst: Sequence[WorstWindow] = ()
    notes: Sequence[str] = ()
    tolerant: bool = False

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings'."""
        verdicts = {finding.verdict for finding in self.findings}
        return next(
            (each for each in _WORST_FIRST if each in verdicts),
            Verdict.PASS,
        )

    @property
    def exit_code(self) -> int:
        """0 passed, 1 a regression, 3 nothing that could be compared or too little of it."""
        if self.tolerant and self.verdict is Verdict.UNDERPOWERED:
            return _EXIT_CODES[Verdict.PASS]
        return _EXIT_CODES[self.verdict]


def check(
    artifact: str | Path,
    baseline_file: Path,
    limits: Limits | None = None,
    text: str | Path | None = None,
    *,
    progress: Progress = bars,
) -> CheckReport:
    """Score an artifact as read back from disk and apply both gates.

    Args:
        artifact: a folder, plain or quantized, or a GGUF file.
        baseline_file: from ``phi3quant baseline create``.
        limits: of the gates.
        text: where the baseline's text lies now; by default where it lay then.
        progress: is told of the blocks.

    Raises:
        NotComparableError: the baseline can't be used, is of another text, tokenizer, source or
            recipe, or the artifact's bytes aren't those of its manifest.
        InputError: the artifact, the baseline or the text isn't there.
    """
    baseline = read_baseline(baseline_file)
    located = locate(artifact)
    report = partial(CheckReport, str(artifact), str(baseline_file))
    try:
        opened = open_artifact(located)
        notes = _notes(opened, baseline)
        windows = baseline_windows(opened, baseline, text)
        with torch.inference_mode(), progress("scoring", predictor(opened.model).steps) as step:
            beside = score_beside(baseline.reference_nll, baseline.top, opened.model, windows, step)
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


def _notes(opened: Artifact, baseline: Baseline) -> list[str]:
    """Refuse what doesn't belong to the baseline; say what can't be known or is different."""
    notes = []
    if has_hashes(opened.path):
        changed = [check for check in check_hashes(opened.path) if check.problem]
        if changed:
            raise NotComparableError(
                f"{opened.name} is not what its manifest says: "
                + "; ".join(f"{check.name} {check.problem}" for check in changed)
            )
    else:
        notes.append(
            f"{opened.name} carries no hashes of its own; that its bytes are whole is not known"
        )
    _check_origin(opened, baseline)
    notes += _unlike(opened, baseline)
    return notes


def _check_origin(opened: Artifact, baseline: Baseline) -> None:
    """Refuse an artifact of other weights or of another recipe than the baseline's."""
    source, expected = weights_of(opened.source), weights_of(baseline.reference)
    if source and expected and source != expected:
        names = sorted(
            name for name in {*source, *expected} if source.get(name) != expected.get(name)
        )
        raise NotComparableError(
            f"{opened.name} was made from other weights than the baseline's "
            f"{baseline.reference.get('name')}: {', '.join(names)} differ; make the baseline anew"
        )
    recipe, before = opened.recipe, baseline.artifact.get("recipe")
    if recipe and isinstance(before, Mapping):
        different = facts.differences(before, recipe)
        if different:
            raise NotComparableError(
                f"{opened.name} was made by another recipe than the baseline's: "
                f"{'; '.join(different)}. If that is meant, make the baseline anew"
            )


def _unlike(opened: Artifact, baseline: Baseline) -> list[str]:
    """What differs and may: bytes, versions, format."""
    before, notes = baseline.artifact, []
    if not opened.recipe and before.get("recipe"):
        notes.append(f"{opened.name} doesn't say how it was made; its recipe is not compared")
    if opened.model.format != before.get("format"):
        notes.append(f"the format is {opened.model.format}, was {before.get('format')}")
    elif weights_of({"sha256": hashes(opened.model)}) != weights_of(before):
        notes.append("the weights' bytes are not those of the baseline's artifact")
    notes += [
        f"tools: {line}" for line in facts.differences(baseline.tools, manifest.describe_tools())
    ]
    return notes


def baseline_windows(opened: Artifact, baseline: Baseline, text: str | Path | None) -> torch.Tensor:
    """The baseline's windows of text, made again; int64 [windows, length]."""
    expected = baseline.text
    if opened.tokenizer.digest != expected.get("vocabulary_sha256"):
        raise NotComparableError(
            f"{opened.name} has another tokenizer than the baseline: its vocabulary's SHA-256 is "
            f"{opened.tokenizer.digest}, the baseline's {expected.get('vocabulary_sha256')}"
        )
    length = expected["window_tokens"]
    context = opened.model.config.max_position_embeddings
    if length > context:
        raise NotComparableError(
            f"the baseline's windows are of {length} tokens, but {opened.name} has a context of "
            f"{context}"
        )
    source = text or str(expected["text"]).removesuffix("/evaluation")
    wanted = EvaluationText(source, expected.get("field"), length, expected["windows"] * length)
    windows, found = text_windows(wanted, opened.tokenizer, opened.model.config)
    for key, what in _TEXT_HASHES.items():
        if found[key] != expected.get(key):
            raise NotComparableError(
                f"{what} of {source} is {found[key]}, the baseline's is {expected.get(key)}; "
                "give the same text (--text says where it is), or make the baseline anew"
            )
    return windows


def _exact(opened: Artifact, baseline: Baseline) -> list[Finding]:
    """What must be equal, a finding for each."""
    found = facts.facts(opened)
    same_kind = baseline.artifact.get("kind") == facts.kind(opened.model)
    return [
        Finding(name, Verdict.FAIL if lines else Verdict.PASS, "; ".join(lines) or "as before")
        for name, value in found.items()
        if same_kind or name != facts.STOP_TOKENS
        for lines in [facts.differences(baseline.facts.get(name), value, name)]
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
    # The mean over the reference's predictions of what ``drift`` takes at the text's tokens: the
    # difference of two divergences from it, in which the reference's entropy cancels.
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
    """A finding for each gate; either way of measuring drift may lend its power to the other."""
    powered = {gate.name for gate in gates if gate.verdict is not Verdict.UNDERPOWERED}
    findings = []
    for gate in gates:
        other = {DRIFT: DIVERGENCE, DIVERGENCE: DRIFT}.get(gate.name)
        lent = gate.name not in powered and other in powered
        verdict = Verdict.PASS if lent else gate.verdict
        findings.append(
            Finding(gate.name, verdict, f"{gate}; {other} decides" if lent else str(gate))
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
