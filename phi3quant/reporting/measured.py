"""How good each variant is: scored here beside the original, or as its manifest says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phi3quant.errors import InputError, Phi3QuantError
from phi3quant.evaluation.evaluate import EvaluationText, evaluate, text_windows
from phi3quant.evaluation.metrics import WorstWindow, figures, worst_windows
from phi3quant.gating.description import weights_of
from phi3quant.progress import Progress, bars
from phi3quant.provenance import manifest
from phi3quant.provenance.sealing import open_artifact
from phi3quant.reporting.divergence import Divergence, divergence
from phi3quant.reporting.stated import mapping, number
from phi3quant.reporting.variant import Variant
from phi3quant.source.locate import Located, locate


@dataclass(frozen=True)
class Measured:
    """One way of running one variant.

    Attributes:
        name: the variant's; with the accuracy level where there are several.
        variant: which of the report's variants.
        figures: from evaluation.metrics.figures or a manifest; may be empty.
        divergence: over the tokens; None if it wasn't scored here.
        worst: windows of text in which it lost most, likewise.
        windows: windows of text that the figures are of; None if that isn't known.
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
            "worst_windows": [window.as_json() for window in self.worst],
        }


@dataclass(frozen=True)
class Measurement:
    """All variants' figures.

    Attributes:
        rows: one for each way of running each variant.
        reference: figures of the original; empty if they aren't known.
        reference_name: what it is called.
        reference_bytes: of its weights; None if it wasn't opened.
        text: what was scored, with hashes; empty if variants were verified on different texts.
        unscored: why nothing was scored here; empty if it was.
    """

    rows: Sequence[Measured]
    reference: Mapping[str, Any]
    reference_name: str
    reference_bytes: int | None
    text: Mapping[str, Any]
    unscored: str = ""

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
    reference: str | None,
    text: EvaluationText,
    progress: Progress = bars,
) -> Measurement:
    """Score variants beside their original; without it, take what their manifests say.

    Args:
        variants: at least one.
        reference: the original; None: the one that the manifests name, if it is here.
        text: what to score on.
        progress: is told of the blocks.

    Raises:
        Phi3QuantError: a given reference or the text can't be used.
    """
    if reference is not None:
        return _scored(variants, Located(locate(reference).path, reference), text, progress)
    try:
        original = _original(variants)
    except Phi3QuantError as error:
        return from_manifests(variants, str(error))
    return _scored(variants, original, text, progress)


def from_manifests(variants: Sequence[Variant], unscored: str) -> Measurement:
    """What the manifests say of the verification after quantizing; no model is run.

    Args:
        variants: at least one.
        unscored: why.
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
                found,
                windows=number(mapping(each.get("text")).get("windows")),
            )
            for way, found in ways.items()
            if found or not way
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
    """The checkpoint that all variants were made from.

    Raises:
        InputError: they were made from several, it isn't here, or it is another by now.
    """
    sources = [variant.opened.source for variant in variants]
    for variant, source in zip(variants, sources, strict=True):
        if not isinstance(source.get("name"), str):
            raise InputError(
                f"{variant.name} doesn't say what it was made from; --reference names that"
            )
        if weights_of(source) != weights_of(sources[0]):
            raise InputError(
                f"{variant.name} was made from another model than {variants[0].name}; "
                "--reference says what to hold both against"
            )
    name, revision = sources[0]["name"], sources[0].get("revision")
    try:
        found = locate(name, revision if isinstance(revision, str) else None)
        described = manifest.describe_source(
            found, manifest.source_files(found, open_artifact(found).model.files)
        )
    except Phi3QuantError:
        raise InputError(
            f"{name}, which {variants[0].name} was made from, isn't here; "
            "--reference says where it is"
        ) from None
    if weights_of(described) != weights_of(sources[0]):
        raise InputError(
            f"{name} has other weights than the one that {variants[0].name} was made from; "
            "--reference says where that is"
        )
    return Located(found.path, name, found.revision)


def _scored(
    variants: Sequence[Variant], original: Located, text: EvaluationText, progress: Progress
) -> Measurement:
    opened = open_artifact(original)
    models = [original.path, *(variant.path for variant in variants)]
    result = evaluate(models, text, progress=progress)
    windows, _ = text_windows(text, opened.tokenizer, opened.config)
    rows = []
    for given, comparison, origin in zip(
        result.names, result.comparisons, result.origins, strict=True
    ):
        if origin == 0:
            continue
        way = given.removeprefix(str(models[origin]))
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
    )
