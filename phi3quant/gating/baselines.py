"""Make baselines and change them, always for a stated reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from phi3quant.errors import InputError, ModelNotFoundError, NotComparableError
from phi3quant.evaluation.evaluate import Artifact, EvaluationText, text_windows
from phi3quant.evaluation.metrics import plain
from phi3quant.evaluation.paired_statistics import PairedMean, paired_mean
from phi3quant.evaluation.perplexity import Comparison
from phi3quant.gating import facts
from phi3quant.gating.baseline import Baseline, read_baseline, write_baseline
from phi3quant.gating.belonging import baseline_windows
from phi3quant.gating.description import describe, weights_of
from phi3quant.gating.recorded import record, score_beside
from phi3quant.model.predictor import predictor
from phi3quant.progress import Progress, bars
from phi3quant.provenance import manifest
from phi3quant.provenance.sealing import open_artifact
from phi3quant.source.locate import Located, locate
from phi3quant.version import tool_version


@dataclass(frozen=True)
class Recorded:
    """A baseline that was just written.

    Attributes:
        path, nbytes: the file.
        baseline: what it holds.
        beside: the artifact compared with full precision.
        drift: the artifact compared with the one before; None for a new baseline.
    """

    path: Path
    nbytes: int
    baseline: Baseline
    beside: Comparison
    drift: PairedMean | None = None


def create_baseline(
    artifact: str | Path | None,
    output: Path,
    *,
    reference: str | Path | None = None,
    text: EvaluationText | None = None,
    reason: str = "created",
    overwrite: bool = True,
    progress: Progress = bars,
) -> Recorded:
    """Score an artifact and its original, and keep what both said.

    Args:
        artifact: a folder, a GGUF file, or None for the bundled model.
        output: the file to write.
        reference: the model in full precision; by default the one that the artifact's manifest
            names, or a plain checkpoint itself.
        text: what to score on.
        reason: goes into the history.
        overwrite: whether a file at ``output`` may be replaced.
        progress: is told of the blocks.

    Raises:
        InputError: a model or the text can't be used, or nothing says what the reference is.
        NotComparableError: the reference isn't what the artifact was made from, or has another
            tokenizer; or the artifact gives NaN.
    """
    opened = open_artifact(locate(artifact))
    original = _reference(opened, reference)
    if original.tokenizer.digest != opened.tokenizer.digest:
        raise NotComparableError(f"{original.name} has another tokenizer than {opened.name}")
    wanted = text or EvaluationText()
    windows, description = text_windows(wanted, opened.tokenizer, opened.model.config)
    described = manifest.describe_source(
        original.located, manifest.source_files(original.located, original.model.files)
    )
    made_from = weights_of(opened.source)
    if made_from and made_from != weights_of(described):
        raise NotComparableError(
            f"{opened.name} was not made from {original.name}: the weights' hashes differ from "
            "those in its manifest"
        )
    total = predictor(original.model).steps + predictor(opened.model).steps
    with torch.inference_mode(), progress("scoring", total) as step:
        losses, top = record(original.model, windows, step)
        beside = score_beside(losses, top, opened.model, windows, step)
    _refuse_nan(beside, opened)
    baseline = Baseline(
        text={**description, "field": wanted.field},
        reference=described,
        artifact=describe(opened),
        facts=facts.facts(opened),
        tools=manifest.describe_tools(),
        history=[_entry(reason, beside, None)],
        reference_nll=losses,
        artifact_nll=beside.candidate.nll.float(),
        artifact_kl=beside.kl.float(),
        top=top,
    )
    nbytes = write_baseline(output, baseline, replace=overwrite)
    return Recorded(output, nbytes, baseline, beside)


def update_baseline(
    artifact: str | Path,
    path: Path,
    reason: str,
    *,
    text: str | Path | None = None,
    progress: Progress = bars,
) -> Recorded:
    """Put another artifact of the same original into a baseline, in the place of the old one.

    The reference's predictions stay as they are, so that its weights aren't needed.

    Args:
        artifact: the new one; its recipe may be another.
        path: of the baseline; it is replaced.
        reason: why the change is meant; goes into the history.
        text: where the baseline's text lies now, if elsewhere.
        progress: is told of the blocks.

    Raises:
        NotComparableError: the artifact has another original or tokenizer, the text is another,
            or the artifact gives NaN.
        InputError: the reason is empty, or something isn't there.
    """
    if not reason.strip():
        raise InputError("a baseline is changed for a reason; say which")
    old = read_baseline(path)
    opened = open_artifact(locate(artifact))
    made_from, expected = weights_of(opened.source), weights_of(old.reference)
    if made_from and expected and made_from != expected:
        raise NotComparableError(
            f"{opened.name} was made from other weights than the baseline's "
            f"{old.reference.get('name')}; make a new baseline of it"
        )
    windows = baseline_windows(opened, old, text)
    with torch.inference_mode(), progress("scoring", predictor(opened.model).steps) as step:
        beside = score_beside(old.reference_nll, old.top, opened.model, windows, step)
    _refuse_nan(beside, opened)
    drift = paired_mean(beside.candidate.nll - old.artifact_nll.double())
    new = old.updated(
        describe(opened),
        facts.facts(opened),
        manifest.describe_tools(),
        beside,
        _entry(reason, beside, drift),
    )
    return Recorded(path, write_baseline(path, new), new, beside, drift)


def _reference(opened: Artifact, given: str | Path | None) -> Artifact:
    """The model in full precision that an artifact was made from."""
    if given is not None:
        return open_artifact(locate(given))
    name, revision = opened.source.get("name"), opened.source.get("revision")
    if not isinstance(name, str):
        if opened.model.format.startswith("safetensors"):
            return opened
        raise InputError(
            f"{opened.name} doesn't say what it was made from; name that with --reference"
        )
    try:
        return open_artifact(_located(name, revision))
    except ModelNotFoundError as error:
        raise InputError(
            f"{opened.name} was made from {name}, which isn't here ({error}); "
            "say where it is with --reference"
        ) from None


def _located(name: str, revision: Any) -> Located:
    return locate(name, revision if isinstance(revision, str) else None)


def _entry(reason: str, beside: Comparison, drift: PairedMean | None) -> Mapping[str, Any]:
    return {
        "reason": reason,
        "phi3quant": tool_version(),
        "ratio": plain(beside.ratio),
        "drift": plain(drift.ratio) if drift else None,
    }


def _refuse_nan(beside: Comparison, opened: Artifact) -> None:
    if beside.candidate.not_finite or beside.reference.not_finite:
        raise NotComparableError(f"{opened.name} or its original gives NaN; that is no baseline")
