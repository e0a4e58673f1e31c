"""All that a report says, before it takes a form."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.progress import Progress, bars
from phi3quant.reporting.error_map import ErrorMap, error_maps
from phi3quant.reporting.measured import Measurement, from_manifests, measure
from phi3quant.reporting.outlook import Outlook, outlooks
from phi3quant.reporting.variant import Variant, open_variants
from phi3quant.version import tool_version

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Report:
    """What is known of some variants.

    Attributes:
        variants: the artifacts, in the order of the page.
        measurement: how good they are.
        error_maps: errors per layer and kind, of those that record them.
        outlooks: memory and devices, of those that runtimes on phones read.
    """

    variants: Sequence[Variant]
    measurement: Measurement
    error_maps: Sequence[ErrorMap]
    outlooks: Sequence[Outlook]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "schema": SCHEMA_VERSION,
            "phi3quant": tool_version(),
            "variants": [variant.as_json() for variant in self.variants],
            **self.measurement.as_json(),
            "error_maps": [each.as_json() for each in self.error_maps],
            "outlooks": [each.as_json() for each in self.outlooks],
        }


def make_report(
    runs: Sequence[str | Path],
    reference: str | None = None,
    text: EvaluationText | None = None,
    *,
    scored: bool = True,
    progress: Progress = bars,
) -> Report:
    """Gather what is known of artifacts, and score them where their original is here.

    Args:
        runs: output folders, .gguf files, ONNX folders; formats in a folder are taken along.
        reference: the original; None: the one that the manifests name.
        text: what to score on.
        scored: whether to score at all.
        progress: is told of the blocks.

    Raises:
        Phi3QuantError: an artifact, the reference or the text can't be used.
    """
    variants = open_variants(runs)
    measurement = (
        measure(variants, reference, text or EvaluationText(), progress)
        if scored
        else from_manifests(variants, "scoring was left out (--no-score)")
    )
    return Report(variants, measurement, error_maps(variants), outlooks(variants))
