"""Versioning: revision, recorded hashes, and whether the weights changed under the same name."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from phi3quant.auditing.finding import Point, contradicted, judged, not_shown, quoted, shown
from phi3quant.auditing.subject import Subject, mapping
from phi3quant.gating.baseline import Baseline
from phi3quant.gating.description import weights_of

_LISTED = 3
_PROBLEM = 200
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


def versioning(subject: Subject) -> Iterator[Point]:
    """Points on revision, hashes and an earlier recording."""
    yield from _revision(subject)
    yield from _hashes(subject)
    if subject.baseline is not None:
        yield from _baseline(subject, subject.baseline)


def _revision(subject: Subject) -> Iterator[Point]:
    revision = subject.opened.located.revision
    recorded = subject.opened.source.get("revision")
    versions = subject.stated("version", "general.version")
    if revision:
        yield shown("hub", f"revision {quoted(revision)}")
    if isinstance(recorded, str) and recorded:
        yield shown("manifest source.revision", quoted(recorded))
    for each in versions:
        yield shown(each.place, f"version {quoted(each.value)}")
    if not (revision or recorded or versions):
        yield not_shown("", "no revision and no version is stated")


def _hashes(subject: Subject) -> Iterator[Point]:
    """The files against the hashes in the manifest, a list of files or the GGUF metadata."""
    if subject.checks is None:
        yield not_shown("", "no hashes are recorded next to the files or in them")
        return
    changed = [check for check in subject.checks if check.problem]
    for check in changed[:_LISTED]:
        problem = quoted(_DIGEST.sub(r"\1...", check.problem), _PROBLEM)
        yield contradicted(quoted(check.name), problem)
    if not changed:
        number = len(subject.checks)
        files = "1 file matches its hash" if number == 1 else f"{number} files match their hashes"
        yield shown("manifest files", files)


def _baseline(subject: Subject, baseline: Baseline) -> Iterator[Point]:
    """The weights against the recording of the same name: the artifact's, or the original's."""
    weights = weights_of({"sha256": dict(subject.hashes)})
    for role in ("artifact", "reference"):
        recorded: Mapping[str, Any] = mapping(getattr(baseline, role))
        before = weights_of(recorded)
        if recorded.get("name") != subject.opened.name or not before:
            continue
        changed = sorted(
            name for name in {*weights, *before} if weights.get(name) != before.get(name)
        )
        place = f"baseline {role}.sha256"
        name = quoted(subject.opened.name)
        yield judged(
            place,
            f"the weights of {name} have changed: {', '.join(map(quoted, changed[:_LISTED]))}"
            if changed
            else f"the weights of {name} are those of the baseline",
            holds=not changed,
        )
        return
    yield not_shown("baseline", f"holds no weights named {quoted(subject.opened.name)}")
