"""Creation and updates of baselines, with recorded reasons."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi3quant.errors import InputError, ModelNotFoundError, NotComparableError
from phi3quant.evaluation.evaluate import Artifact, EvaluationText, text_windows
from phi3quant.evaluation.metrics import plain
from phi3quant.evaluation.paired_statistics import PairedMean, paired_mean
from phi3quant.evaluation.perplexity import Comparison, scoring
from phi3quant.gating import facts
from phi3quant.gating.baseline import Baseline, read_baseline, write_baseline
from phi3quant.gating.belonging import baseline_windows
from phi3quant.gating.description import describe, weights_of
from phi3quant.gating.recorded import record, score_beside
from phi3quant.model.device import AUTO, find_device
from phi3quant.model.predictor import predictor
from phi3quant.progress import Progress, bars
from phi3quant.provenance import manifest
from phi3quant.provenance.sealing import open_artifact
from phi3quant.source.adapter_reference import recorded_adapters
from phi3quant.source.locate import Adapters, Located, locate
from phi3quant.version import tool_version


@dataclass(frozen=True)
class Recorded:
    """Newly written baseline.

    Attributes:
        path, nbytes: path and size of the file.
        baseline: contents of the file.
        beside: comparison of the artifact with full precision.
        drift: difference between the artifact and the previous one; None for a new baseline.
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
    device: str = AUTO,
) -> Recorded:
    """Score an artifact and its original, and record the predictions of both.

    Args:
        artifact: folder, GGUF file, or None for the bundled model.
        output: file to write.
        reference: model in full precision; by default the one named in the artifact's manifest, or
            a plain checkpoint itself.
        text: text to score on; None for the defaults.
        reason: entry for the history.
        overwrite: whether a file at ``output`` may be replaced.
        progress: display of the blocks.
        device: device to compute on; see phi3quant.model.device.find_device.

    Raises:
        InputError: a model or the text can't be used, or the reference is unknown.
        NotComparableError: the artifact was not made from the reference, the tokenizers differ, or
            the artifact gives NaN.
    """
    found = find_device(device)
    opened = open_artifact(locate(artifact))
    original = _reference(opened, reference)
    if original.tokenizer.digest != opened.tokenizer.digest:
        raise NotComparableError(f"{original.name} has another tokenizer than {opened.name}")
    chosen = text or EvaluationText()
    windows, description = text_windows(chosen, opened.tokenizer, opened.model.config)
    described = manifest.describe_source(
        original.located, manifest.source_files(original.located, original.model.files)
    )
    origin = weights_of(opened.source)
    if origin and origin != weights_of(described):
        raise NotComparableError(
            f"{opened.name} was not made from {original.name}: the weights' hashes differ from "
            "those in its manifest"
        )
    total = predictor(original.model).steps + predictor(opened.model).steps
    with scoring(found, progress, total) as step:
        losses, top = record(original.model, windows, step, found)
        beside = score_beside(losses, top, opened.model, windows, step, found)
    _refuse_nan(beside, opened)
    baseline = Baseline(
        text={**description, "field": chosen.field},
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
    device: str = AUTO,
) -> Recorded:
    """Replace the artifact of a baseline by another one of the same original.

    The reference's predictions stay the same, so that its weights aren't needed.

    Args:
        artifact: new artifact, possibly with another recipe.
        path: file of the baseline, which is overwritten.
        reason: reason for the change, recorded in the history.
        text: current path of the baseline's text; None if it is unchanged.
        progress: display of the blocks.
        device: device to compute on; see phi3quant.model.device.find_device.

    Raises:
        NotComparableError: the artifact has another original or tokenizer, the text differs, or the
            artifact gives NaN.
        InputError: the reason is empty, or a file is missing.
    """
    if not reason.strip():
        raise InputError("--reason is required when a baseline is updated; it is recorded there")
    found = find_device(device)
    old = read_baseline(path)
    opened = open_artifact(locate(artifact))
    origin, expected = weights_of(opened.source), weights_of(old.reference)
    if origin and expected and origin != expected:
        raise NotComparableError(
            f"{opened.name} was made from other weights than the baseline's "
            f"{old.reference.get('name')}; create a new baseline"
        )
    windows = baseline_windows(opened, old, text)
    with scoring(found, progress, predictor(opened.model).steps) as step:
        beside = score_beside(old.reference_nll, old.top, opened.model, windows, step, found)
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


def _reference(opened: Artifact, reference: str | Path | None) -> Artifact:
    """Open the model in full precision that an artifact was made from."""
    adapters = recorded_adapters(opened.source)
    if reference is not None:
        return open_artifact(locate(reference, adapters=adapters))
    name, revision = opened.source.get("name"), opened.source.get("revision")
    if not isinstance(name, str):
        if opened.model.format.startswith("safetensors"):
            return opened
        raise InputError(f"{opened.name} doesn't record its original; pass that as --reference")
    try:
        return open_artifact(_located(name, revision, adapters))
    except ModelNotFoundError as error:
        raise InputError(
            f"{opened.name} was made from {name}, which is missing ({error}); "
            "pass its path as --reference"
        ) from None


def _located(name: str, revision: Any, adapters: Adapters) -> Located:
    return locate(name, revision if isinstance(revision, str) else None, adapters)


def _entry(reason: str, beside: Comparison, drift: PairedMean | None) -> Mapping[str, Any]:
    return {
        "reason": reason,
        "phi3quant": tool_version(),
        "ratio": plain(beside.ratio),
        "drift": plain(drift.ratio) if drift else None,
    }


def _refuse_nan(beside: Comparison, opened: Artifact) -> None:
    if beside.candidate.not_finite or beside.reference.not_finite:
        raise NotComparableError(
            f"{opened.name} or its original gives NaN, so it can't be a baseline"
        )
