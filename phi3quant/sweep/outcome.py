"""Outcome of a job: figures of its artifacts, time and memory, or the reason of a failure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from converters import open_located
from phi3quant.disk.output import write_json
from phi3quant.disk.untrusted_json import read_json
from phi3quant.errors import CheckpointError, InputError
from phi3quant.evaluation.inspection import parameters
from phi3quant.provenance.sealing import read_provenance
from phi3quant.source.locate import Located

Status = Literal["done", "refused", "failed"]


@dataclass(frozen=True)
class Figures:
    """Figures of an artifact against its original; None where they aren't finite.

    Attributes:
        perplexity, ratio, ratio_95, kl_mean, same_top: see evaluation.metrics.figures.
        not_finite: predictions of NaN or infinity; a model with any is broken.
    """

    perplexity: float | None = None
    ratio: float | None = None
    ratio_95: tuple[float | None, float | None] = (None, None)
    kl_mean: float | None = None
    same_top: float | None = None
    not_finite: int = 0


@dataclass(frozen=True)
class Scored:
    """An artifact in one format.

    Attributes:
        format: name of the format.
        path: folder, relative to that of the job's artifact; "." for the first format.
        nbytes: size of the weights.
        bits_per_weight: stored bits of the whole model per parameter.
        figures: quality.
    """

    format: str
    path: str
    nbytes: int
    bits_per_weight: float
    figures: Figures

    @property
    def increase(self) -> float | None:
        """Increase of perplexity as a share."""
        return None if self.figures.ratio is None else self.figures.ratio - 1


@dataclass(frozen=True)
class Outcome:
    """Outcome of a job.

    Attributes:
        key: key of the job.
        status: ``done``, ``refused`` (it can't run here) or ``failed``.
        reason: why it was refused or failed.
        artifacts: one for each format; empty if there is no result.
        reference: perplexity of the original.
        windows: number of scored windows.
        seconds: duration; None if it isn't known.
        peak_bytes: largest resident set during the job; None if it isn't known.
        reused: whether the artifact was there already.
    """

    key: str
    status: Status
    reason: str = ""
    artifacts: tuple[Scored, ...] = ()
    reference: float | None = None
    windows: int | None = None
    seconds: float | None = None
    peak_bytes: int | None = None
    reused: bool = field(default=False, compare=False)

    @property
    def done(self) -> bool:
        """Whether there are artifacts that work."""
        return self.status == "done"

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def outcome_of(key: str, folder: Path, formats: tuple[str, ...]) -> Outcome:
    """Figures of a finished job, from its artifact and the manifests in it.

    Raises:
        Phi3QuantError: the artifact or a manifest can't be read.
    """
    artifacts, reference, windows = [], None, None
    for number, name in enumerate(dict.fromkeys(formats)):
        path = "." if number == 0 else name
        manifest = read_provenance(folder / path)
        record = manifest.get("verification")
        if not isinstance(record, Mapping):
            raise CheckpointError(f"{folder / path} has no verification in its manifest")
        model = open_located(Located(folder / path, name)).model
        figures = _figures(record.get("artifact"), folder / path)
        artifacts.append(
            Scored(
                name,
                path,
                model.weight_bytes,
                8 * model.weight_bytes / parameters(model.config),
                figures,
            )
        )
        reference = _figures(record.get("reference"), folder / path).perplexity
        text = record.get("text")
        windows = text.get("windows") if isinstance(text, Mapping) else None
    broken = [each.format for each in artifacts if each.figures.not_finite]
    return Outcome(
        key,
        "failed" if broken else "done",
        f"{', '.join(broken)} gives NaN or infinity" if broken else "",
        artifacts=tuple(artifacts),
        reference=reference,
        windows=windows if isinstance(windows, int) else None,
    )


def _figures(value: Any, where: Path) -> Figures:
    try:
        return msgspec.convert(value, Figures)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"the manifest of {where} has no usable figures: {error}") from None


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Record the outcome of a finished job.

    Raises:
        OutputError: the file can't be written.
    """
    write_json(path, outcome.as_json())


def read_outcome(path: Path) -> Outcome | None:
    """Recorded outcome; None if there is none that can be read."""
    try:
        recorded: Outcome = read_json(path, Outcome)
    except InputError:
        return None
    return replace(recorded, reused=True)
