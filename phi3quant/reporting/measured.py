"""Quality of each variant: scored against the original, or from its manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phi3quant.errors import InputError, Phi3QuantError
from phi3quant.evaluation.evaluate import EvaluationText, evaluate, text_windows
from phi3quant.evaluation.metrics import WorstWindow, figures, worst_windows
from phi3quant.gating.description import weights_of
from phi3quant.model.device import AUTO
from phi3quant.progress import Progress, bars
from phi3quant.provenance import manifest
from phi3quant.provenance.sealing import open_artifact
from phi3quant.reporting.divergence import Divergence, divergence
from phi3quant.reporting.stated import mapping, number
from phi3quant.reporting.variant import Variant
from phi3quant.source.adapter_reference import recorded_adapters
from phi3quant.source.locate import Located, locate


@dataclass(frozen=True)
class Measured:
    """Scores of a variant, run in one way.

    Attributes:
        name: of the variant, with the accuracy level if there are several.
        variant: index among the report's variants.
        figures: from evaluation.metrics.figures or a manifest; may be empty.
        divergence: over the tokens; None if it wasn't scored here.
        worst: windows of text with the greatest loss; empty if it wasn't scored here.
        windows: number of scored windows; None if it isn't known.
    """

    name: str
    variant: int
    figures: Mapping[str, Any]
    divergence: Divergence | None = None
    worst: Sequence[WorstWindow] = ()
    windows: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "variant": self.variant,
            "figures": dict(self.figures) or None,
            "divergence": self.divergence.as_json() if self.divergence else None,
            "worst_windows": [
                {
                    **window.as_json(),
                    "reference_top": window.reference_top,
                    "variant_top": window.candidate_top,
                }
                for window in self.worst
            ],
        }


@dataclass(frozen=True)
class Measurement:
    """Scores of all variants.

    Attributes:
        rows: one for each way of running each variant, the default way first.
        reference: figures of the original; empty if they aren't known.
        reference_name: name of the original.
        reference_bytes: size of its weights; None if it wasn't opened.
        text: evaluation text with hashes; empty if variants were verified on different texts.
        unscored: reason why nothing was scored here; empty if it was.
        original: location of the original; None if nothing was scored here.
    """

    rows: Sequence[Measured]
    reference: Mapping[str, Any]
    reference_name: str
    reference_bytes: int | None
    text: Mapping[str, Any]
    unscored: str = ""
    original: Located | None = None

    @property
    def first_rows(self) -> list[Measured]:
        """The default way of running each variant."""
        first: dict[int, Measured] = {}
        for row in self.rows:
            first.setdefault(row.variant, row)
        return list(first.values())

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "reference": {
                "name": self.reference_name or None,
                "bytes": self.reference_bytes,
                "figures": dict(self.reference) or None,
            },
            "text": dict(self.text) or None,
            "unscored": self.unscored or None,
            "rows": [row.as_json() for row in self.rows],
        }


def measure(
    variants: Sequence[Variant],
    reference: str | Path | None,
    text: EvaluationText,
    progress: Progress = bars,
    device: str = AUTO,
) -> Measurement:
    """Score variants against their original; without it, use the figures in their manifests.

    Args:
        variants: at least one.
        reference: the original; None: the one named in the manifests, if it is here.
        text: evaluation text.
        progress: display of the blocks done.
        device: device to compute on; see phi3quant.model.device.find_device.

    Raises:
        Phi3QuantError: the reference that was passed, or the text, can't be used.
    """
    if reference is not None:
        located = locate(reference, adapters=recorded_adapters(variants[0].opened.source))
        original = replace(located, name=str(reference))
        return _scored(variants, original, text, progress, device)
    try:
        original = _original(variants)
    except Phi3QuantError as error:
        return from_manifests(variants, str(error))
    return _scored(variants, original, text, progress, device)


def from_manifests(variants: Sequence[Variant], unscored: str) -> Measurement:
    """Figures of the verification after quantizing, from manifests; no model is run.

    Args:
        variants: at least one.
        unscored: reason why nothing is scored.
    """
    stated = [mapping(variant.manifest.get("verification")) for variant in variants]
    texts = [mapping(each.get("text")) for each in stated if each]
    references = [mapping(each.get("reference")) for each in stated if each]
    alike = len({str(each.get("tokens_sha256")) for each in texts}) == 1
    rows = []
    for index, (variant, each) in enumerate(zip(variants, stated, strict=True)):
        ways = {
            "": mapping(each.get("artifact")),
            " (level 0)": mapping(each.get("at_accuracy_level_0")),
        }
        rows += [
            Measured(
                variant.name + way,
                index,
                scores,
                windows=number(mapping(each.get("text")).get("windows")),
            )
            for way, scores in ways.items()
            if scores or not way
        ]
    sources = {str(variant.opened.source.get("name", "")) for variant in variants}
    return Measurement(
        rows,
        references[0] if alike else {},
        sources.pop() if len(sources) == 1 else "",
        None,
        texts[0] if alike else {},
        unscored,
    )


def _original(variants: Sequence[Variant]) -> Located:
    """The checkpoint that is the source of all variants.

    Raises:
        InputError: there are several, it isn't here, or its weights have changed.
    """
    sources = [variant.opened.source for variant in variants]
    for variant, source in zip(variants, sources, strict=True):
        if not isinstance(source.get("name"), str):
            raise InputError(
                f"{variant.name} doesn't record its source; name the original with --reference"
            )
        if weights_of(source) != weights_of(sources[0]):
            raise InputError(
                f"{variant.name} and {variants[0].name} have different sources; name one original "
                "for both with --reference"
            )
    name, revision = sources[0]["name"], sources[0].get("revision")
    try:
        located = locate(
            name,
            revision if isinstance(revision, str) else None,
            recorded_adapters(sources[0]),
        )
        described = manifest.describe_source(
            located, manifest.source_files(located, open_artifact(located).model.files)
        )
    except Phi3QuantError:
        raise InputError(
            f"{name}, the source of {variants[0].name}, isn't here; give its path with --reference"
        ) from None
    if weights_of(described) != weights_of(sources[0]):
        raise InputError(
            f"{name} has other weights than the source of {variants[0].name}; give the path of the "
            "source with --reference"
        )
    return replace(located, name=name)


def _scored(
    variants: Sequence[Variant],
    original: Located,
    text: EvaluationText,
    progress: Progress,
    device: str,
) -> Measurement:
    opened = open_artifact(original)
    models: list[Located | Path] = [original, *(variant.path for variant in variants)]
    result = evaluate(models, text, progress=progress, device=device)
    windows, _ = text_windows(text, opened.tokenizer, opened.config)
    rows = []
    for name, comparison, origin in zip(
        result.names, result.comparisons, result.origins, strict=True
    ):
        if origin == 0:
            continue
        way = name.removeprefix(str(models[origin]))
        rows.append(
            Measured(
                variants[origin - 1].name + way,
                origin - 1,
                figures(comparison, reference=False),
                divergence(comparison.kl),
                worst_windows(comparison, windows, opened.tokenizer.decode),
                len(windows),
            )
        )
    return Measurement(
        rows,
        figures(result.comparisons[0], reference=True),
        original.name,
        opened.model.weight_bytes,
        result.text,
        original=original,
    )
