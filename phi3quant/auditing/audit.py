"""Audit of a model: ten criteria, each from evidence in its files, and a grade."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from phi3quant.auditing.criteria import CRITERIA
from phi3quant.auditing.criteria.identity import MAX_NEW_TOKENS, QUESTION
from phi3quant.auditing.finding import Finding, finding
from phi3quant.auditing.grade import Grade, Tally, tally
from phi3quant.auditing.subject import Subject, read_card_of, read_licences
from phi3quant.errors import InputError, NotComparableError, require
from phi3quant.evaluation.evaluate import Artifact
from phi3quant.evaluation.inspection import hashes
from phi3quant.gating.baseline import read_baseline
from phi3quant.generation.generate import generate_from
from phi3quant.progress import Progress, bars, silent
from phi3quant.provenance.integrity import (
    FileCheck,
    check_hashes,
    count_hashes,
    has_hashes,
)
from phi3quant.provenance.sealing import open_artifact
from phi3quant.source.locate import locate

SCHEMA_VERSION = 1


@dataclass(frozen=True, repr=False)
class Audit:
    """Result of an audit.

    Attributes:
        name: name of the model.
        format: storage format of the model.
        findings: one for each criterion.
        answer: the model's answer to the question who it is; None if it wasn't asked.
    """

    name: str
    format: str
    findings: Sequence[Finding]
    answer: str | None = None

    def __getitem__(self, criterion: str) -> Finding:
        """Finding of a criterion.

        Raises:
            KeyError: there is no such criterion; the message lists them.
        """
        for each in self.findings:
            if each.name == criterion:
                return each
        raise KeyError(f"{criterion} is not a criterion; there are {', '.join(CRITERIA)}")

    def __repr__(self) -> str:
        return f"<Audit of {self.name}: {self.grade.value} ({self.tally})>"

    @property
    def tally(self) -> Tally:
        """Number of criteria by standing."""
        return tally(self.findings)

    @property
    def grade(self) -> Grade:
        """Grade of the model."""
        return self.tally.grade

    def as_json(self) -> dict[str, Any]:
        """The audit as JSON values."""
        counts = self.tally
        return {
            "schema": SCHEMA_VERSION,
            "name": self.name,
            "format": self.format,
            "grade": counts.grade.value,
            **asdict(counts),
            "coverage": counts.coverage,
            "criteria": [each.as_json() for each in self.findings],
            "question": QUESTION if self.answer is not None else None,
            "answer": self.answer,
        }


def audit(
    model: str | Path | None,
    *,
    revision: str | None = None,
    baseline: str | Path | None = None,
    ask: bool = False,
    progress: Progress = bars,
) -> Audit:
    """Grade a checkpoint or artifact by ten criteria, each from evidence in its files.

    Args:
        model: folder, GGUF file, hub id, or None for the bundled model.
        revision: branch, tag or commit of a hub id.
        baseline: file of ``phi3quant baseline``, to see whether the weights changed under the same
            name.
        ask: whether to let the model answer who it is, in its own chat template.
        progress: display of the hashing.

    Raises:
        Phi3QuantError: the model or the baseline can't be read.

    Examples:
        >>> audit("phi3-tiny")["licence"].standing.value
        'partly shown'
    """
    require(InputError, "baseline", baseline, str, Path, None)
    recorded = None if baseline is None else read_baseline(Path(baseline))
    opened = open_artifact(locate(model, revision))
    weights: Mapping[str, str] = {}
    if recorded is not None:
        with progress("hashing", len(opened.model.files)) as step:
            weights = hashes(opened.model, step)
    subject = Subject(
        opened,
        read_card_of(opened),
        read_licences(opened.folder),
        weights,
        _checks(opened, progress),
        recorded,
        _answer(opened) if ask else None,
    )
    return audit_subject(subject)


def audit_opened(opened: Artifact, progress: Progress = silent) -> Audit:
    """Audit an opened model, without a baseline and without asking it."""
    return audit_subject(
        Subject(
            opened,
            read_card_of(opened),
            read_licences(opened.folder),
            checks=_checks(opened, progress),
        )
    )


def audit_subject(subject: Subject) -> Audit:
    """Apply all criteria."""
    findings = [finding(name, gather(subject)) for name, gather in CRITERIA.items()]
    return Audit(subject.opened.name, subject.opened.model.format, findings, subject.answer)


def _checks(opened: Artifact, progress: Progress) -> list[FileCheck] | None:
    """Comparison with recorded hashes; None if there are none."""
    try:
        if not has_hashes(opened.path):
            return None
        with progress("comparing hashes", count_hashes(opened.path)) as step:
            return check_hashes(opened.path, step)
    except (NotComparableError, InputError) as error:
        # The rest of the model can be audited without usable hashes.
        return [FileCheck("recorded hashes", str(error))]


def _answer(opened: Artifact) -> str:
    return generate_from(opened, QUESTION, max_new_tokens=MAX_NEW_TOKENS).text
