"""The contents of a report, before they take a form."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from phi3quant.auditing.audit import Audit, audit_opened
from phi3quant.evaluation.evaluate import Artifact, EvaluationText
from phi3quant.model.device import AUTO, find_device
from phi3quant.progress import Progress, bars
from phi3quant.provenance.sealing import open_artifact
from phi3quant.reporting.answers import SampleAnswers, sample_answers
from phi3quant.reporting.error_map import ErrorMap, error_maps
from phi3quant.reporting.invocation import Invocation, invocation
from phi3quant.reporting.measured import Measured, Measurement, from_manifests, measure
from phi3quant.reporting.outlook import Outlook, outlooks
from phi3quant.reporting.variant import Variant, open_variants
from phi3quant.version import tool_version

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Report:
    """Facts and figures of variants of a model.

    Attributes:
        variants: artifacts, in the order of the page.
        measurement: quality of each.
        error_maps: errors per layer and matrix, of variants that record them.
        outlooks: memory and devices, of variants in a format for phones.
        samples: answers to the same prompts; None if nothing was scored.
        invocation: the command that makes the same report; None if it isn't known.
        created: time of the report, in UTC; None if it isn't known.
        audits: grades of the original, if it is here, and of each variant.
    """

    variants: Sequence[Variant]
    measurement: Measurement
    error_maps: Sequence[ErrorMap]
    outlooks: Sequence[Outlook]
    samples: SampleAnswers | None = None
    invocation: Invocation | None = None
    created: datetime | None = None
    audits: Sequence[Audit] = ()

    @property
    def artifacts(self) -> list[Measured]:
        """Figures of each variant, run the way its file asks for, under the variant's name."""
        return [
            replace(row, name=self.variants[row.variant].name)
            for row in self.measurement.first_rows
        ]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "schema": SCHEMA_VERSION,
            "phi3quant": tool_version(),
            "created": self.created.isoformat() if self.created else None,
            "command": self.invocation.command() if self.invocation else None,
            "variants": [variant.as_json() for variant in self.variants],
            **self.measurement.as_json(),
            "samples": self.samples.as_json() if self.samples else None,
            "error_maps": [each.as_json() for each in self.error_maps],
            "outlooks": [each.as_json() for each in self.outlooks],
            "audits": [each.as_json() for each in self.audits],
        }


def make_report(
    runs: str | Path | Sequence[str | Path],
    reference: str | Path | None = None,
    text: EvaluationText | None = None,
    *,
    scored: bool = True,
    progress: Progress = bars,
    device: str = AUTO,
) -> Report:
    """Gather the facts of artifacts, and score them if their original is here.

    Args:
        runs: one or more output folders, .gguf files or ONNX folders; a folder stands for all
            formats in it.
        reference: the original; None: the one named in the manifests.
        text: evaluation text; None: the bundled one that suits the model.
        scored: run the models; otherwise quality figures come from the manifests.
        progress: display of the work done.
        device: device to compute on; see phi3quant.model.device.find_device.

    Raises:
        Phi3QuantError: an artifact, the reference or the text can't be used.

    Examples:
        >>> from phi3quant.reporting.page import write_page
        >>> report = make_report("out", text=EvaluationText(max_tokens=4096))  # doctest: +SKIP
        >>> write_page("report.html", report)  # doctest: +SKIP
    """
    find_device(device)
    runs = [runs] if isinstance(runs, str | Path) else runs
    text = text or EvaluationText()
    variants = open_variants(runs)
    measurement = (
        measure(variants, reference, text, progress, device)
        if scored
        else from_manifests(variants, "scoring was left out")
    )
    opened = [(variant.name, variant.opened) for variant in variants]
    samples = None
    if measurement.original is not None:
        original = open_artifact(measurement.original)
        opened.insert(0, (measurement.reference_name, original))
        samples = sample_answers(opened, progress, device=device)
    return Report(
        variants,
        measurement,
        error_maps(variants),
        outlooks(variants),
        samples,
        invocation(runs, reference, text, scored=scored),
        datetime.now(UTC).replace(microsecond=0),
        _audits([model for _, model in opened], progress),
    )


def _audits(opened: Sequence[Artifact], progress: Progress) -> list[Audit]:
    with progress("auditing", len(opened)) as step:
        audits = []
        for each in opened:
            audits.append(audit_opened(each))
            step()
    return audits
