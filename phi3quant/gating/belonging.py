"""Checks that an artifact and a text belong to a baseline."""

from collections.abc import Mapping
from pathlib import Path

import torch

from phi3quant.errors import NotComparableError
from phi3quant.evaluation.evaluate import Artifact, EvaluationText, text_windows
from phi3quant.evaluation.inspection import hashes
from phi3quant.gating import facts
from phi3quant.gating.baseline import Baseline
from phi3quant.gating.description import weights_of
from phi3quant.provenance import manifest
from phi3quant.provenance.integrity import check_hashes, has_hashes

_TEXT_HASHES = {"text_sha256": "the SHA-256", "tokens_sha256": "the SHA-256 of the token ids"}


def check_belongs(opened: Artifact, baseline: Baseline) -> list[str]:
    """Refuse an artifact that doesn't belong to a baseline.

    Returns:
        Notes on differences that are allowed, and on what can't be checked.

    Raises:
        NotComparableError: its bytes differ from its manifest, or it was made from other weights
            or by another recipe.
    """
    notes = []
    if has_hashes(opened.path):
        changed = [check for check in check_hashes(opened.path) if check.problem]
        if changed:
            raise NotComparableError(
                f"{opened.name} differs from its manifest: "
                + "; ".join(f"{check.name} {check.problem}" for check in changed)
            )
    else:
        notes.append(f"{opened.name} has no hashes, so its integrity can't be checked")
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
            f"{baseline.reference.get('name')}: {', '.join(names)} differ; create a new baseline"
        )
    recipe, before = opened.recipe, baseline.artifact.get("recipe")
    if recipe and isinstance(before, Mapping):
        different = facts.differences(before, recipe)
        if different:
            raise NotComparableError(
                f"{opened.name} was made by another recipe than the baseline's: "
                f"{'; '.join(different)}. If that is intended, create a new baseline"
            )


def _unlike(opened: Artifact, baseline: Baseline) -> list[str]:
    """Notes on differences that are allowed: bytes, versions, format."""
    before, notes = baseline.artifact, []
    if facts.TEMPLATE_TEXT not in baseline.facts:
        notes.append(
            "the baseline has no hash of the chat template's text; update it to compare it"
        )
    if not opened.recipe and before.get("recipe"):
        notes.append(f"{opened.name} doesn't record how it was made; its recipe is not compared")
    if opened.model.format != before.get("format"):
        notes.append(f"the format is {opened.model.format}, was {before.get('format')}")
    elif weights_of({"sha256": hashes(opened.model)}) != weights_of(before):
        notes.append("the weights' bytes are not those of the baseline's artifact")
    notes += [
        f"tools: {line}" for line in facts.differences(baseline.tools, manifest.describe_tools())
    ]
    return notes


def baseline_windows(opened: Artifact, baseline: Baseline, text: str | Path | None) -> torch.Tensor:
    """Cut the text of a baseline into windows again.

    Args:
        opened: artifact whose tokenizer is used.
        baseline: baseline with the text's name, length and hashes.
        text: current path of the text; None if it is unchanged.

    Returns:
        Token ids, int64 [windows, length].

    Raises:
        NotComparableError: the tokenizer or the text differs, or the context is too short.
        CorpusError: the text can't be read.
    """
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
            f"the baseline's windows have {length} tokens, but {opened.name} has a context of "
            f"{context}"
        )
    source = text or str(expected["text"]).removesuffix("/evaluation")
    again = EvaluationText(source, expected.get("field"), length, expected["windows"] * length)
    windows, description = text_windows(again, opened.tokenizer, opened.model.config)
    for key, what in _TEXT_HASHES.items():
        if description[key] != expected.get(key):
            raise NotComparableError(
                f"{what} of {source} is {description[key]}, the baseline's is {expected.get(key)}; "
                "pass the path of the same text as --text, or create a new baseline"
            )
    return windows
