"""Verification of a run's artifacts, recorded in their manifests."""

from pathlib import Path
from typing import Any, overload

from converters import open_located
from converters.format import Source
from phi3quant.disk.workspace import check_output
from phi3quant.errors import InputError, require
from phi3quant.evaluation.evaluate import (
    Evaluation,
    EvaluationText,
    evaluate_opened,
    text_windows,
)
from phi3quant.evaluation.full_precision import FullPrecision
from phi3quant.evaluation.metrics import figures
from phi3quant.model.device import AUTO, find_device
from phi3quant.progress import Progress, bars
from phi3quant.provenance import sealing
from phi3quant.provenance.integrity import FileCheck, check_hashes
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.draft import Draft
from phi3quant.source.locate import Located, locate


@overload
def verify(
    artifacts: Artifacts,
    text: EvaluationText | None = None,
    *,
    progress: Progress = bars,
    device: str = AUTO,
) -> Evaluation: ...


@overload
def verify(artifacts: str | Path) -> list[FileCheck]: ...


def verify(
    artifacts: Artifacts | str | Path,
    text: EvaluationText | None = None,
    *,
    progress: Progress = bars,
    device: str = AUTO,
) -> Evaluation | list[FileCheck]:
    """Verify artifacts as read back from disk.

    The artifacts of a run are scored against their source, and the figures are recorded in their
    manifests. For a path, every file is compared with the hashes in its manifest, as by
    ``phi3quant verify``.

    Args:
        artifacts: result of ``quantize``, or path of an artifact.
        text: text to score the result of a run on.
        progress: display of the scoring.
        device: device to compute on; see phi3quant.model.device.find_device.

    Returns:
        Scores of a run's artifacts, or one check for each file of a path. A check has passed if its
        ``problem`` is empty.

    Raises:
        Phi3QuantError: an artifact or its source can't be read back, the text can't be used, or a
            path has no hashes.
    """
    require(InputError, "artifacts", artifacts, Artifacts, str, Path)
    if not isinstance(artifacts, Artifacts):
        return check_hashes(locate(artifacts).path)
    places = artifacts.folders
    # Checked before the scoring, since the manifests are added by replacing the whole folder.
    check_output(next(iter(places.values())), overwrite=True)
    located = [Located(folder, str(folder)) for folder in places.values()]
    opened = [open_located(each) for each in (artifacts.source, *located)]
    result = evaluate_opened(opened, text or EvaluationText(), progress, find_device(device))
    records = zip(places.values(), _records(result, len(places)), strict=True)
    sealing.record_verifications(next(iter(places.values())), dict(records))
    return result


class Verification:
    """Scorer of a draft against its source; implements phi3quant.run.draft.Judge.

    Attributes:
        evaluation: scores of the draft; None before it is scored.
    """

    def __init__(
        self,
        text: EvaluationText | None = None,
        progress: Progress = bars,
        device: str = AUTO,
        kept: FullPrecision | None = None,
    ) -> None:
        self.evaluation: Evaluation | None = None
        self._kept = kept
        self._text = text or EvaluationText()
        self._progress = progress
        self._device = find_device(device)

    def prepare(self, source: Source) -> None:
        """See Judge."""
        if self._kept is None:
            text_windows(self._text, source.tokenizer, source.config)

    def __call__(self, draft: Draft) -> dict[str, dict[str, Any]]:
        """See Judge."""
        artifacts = [
            open_located(Located(folder, str(draft.places[name])))
            for name, folder in draft.folders.items()
        ]
        self.evaluation = evaluate_opened(
            [draft.source, *artifacts], self._text, self._progress, self._device, self._kept
        )
        records = _records(self.evaluation, len(draft.folders))
        return dict(zip(draft.folders, records, strict=True))


def _records(result: Evaluation, count: int) -> list[dict[str, Any]]:
    """Entries ``verification`` for manifests of ``count`` artifacts, scored after their source."""
    records = []
    for number in range(1, count + 1):
        first, *others = (
            figures(comparison, reference=False)
            for origin, comparison in zip(result.origins, result.comparisons, strict=True)
            if origin == number
        )
        record = {
            "text": dict(result.text),
            "reference": figures(result.comparisons[0], reference=True),
            "artifact": first,
        }
        # There is at most one other way to score; see converters.as_run.
        if others:
            record["at_accuracy_level_0"] = others[0]
        records.append(record)
    return records
