"""Cache of a sweep: artifacts of earlier jobs that their manifests and hashes prove."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from calib.mixture import SELF
from phi3quant.disk.output import MANIFEST
from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.errors import Phi3QuantError
from phi3quant.provenance.integrity import check_hashes
from phi3quant.sweep.folder import SweepFolder
from phi3quant.sweep.job import Job
from phi3quant.sweep.outcome import Outcome, outcome_of, read_outcome

# Choices that a target for the bits per weight replaces during the run.
_SETTLED = frozenset(("bits", "group_size", "symmetric", "gguf_type", "tensor_types"))


def reused(job: Job, folder: SweepFolder) -> Outcome | None:
    """Outcome of a job whose artifact is there and intact; None if the job must run.

    Every file is compared with its hash.
    """
    artifact = folder.artifact(job.key)
    if not (artifact / MANIFEST).is_file() or problem(job, artifact):
        return None
    recorded = read_outcome(folder.outcome(job.key))
    if recorded is not None and recorded.key == job.key and recorded.artifacts:
        return recorded
    try:
        # The process was killed between the artifact and its figures.
        return replace(outcome_of(job.key, artifact, job.recipe.formats), reused=True)
    except Phi3QuantError:
        return None


def problem(job: Job, artifact: Path) -> str:
    """Reason why an artifact isn't the result of a job; empty if it is."""
    try:
        manifest = read_json_if_there(artifact / MANIFEST)
        failed = [check for check in check_hashes(artifact) if check.problem]
    except Phi3QuantError as error:
        return str(error)
    if failed:
        return f"{failed[0].name} {failed[0].problem}"
    return mismatch(job, manifest)


def mismatch(job: Job, manifest: Mapping[str, Any]) -> str:
    """First difference between a job's identity and a manifest; empty if they agree."""
    record = manifest.get("verification")
    text = record.get("text") if isinstance(record, Mapping) else None
    pairs = (
        ("source", job.identity["source"], manifest.get("source"), frozenset[str]()),
        (
            "recipe",
            job.identity["recipe"],
            manifest.get("recipe"),
            _SETTLED if job.recipe.target_bpw is not None else frozenset[str](),
        ),
        (
            "calibration text",
            _texts(job.identity["calibration"]),
            _texts(manifest.get("calibration")),
            None,
        ),
        ("evaluation text", _texts(job.identity["evaluation"]), _texts(text), None),
        # The manifest of a result from a CPU doesn't name it.
        (
            "device",
            {"device": job.identity["device"]},
            {"device": manifest.get("device", "cpu")},
            None,
        ),
    )
    for name, expected, recorded, without in pairs:
        if not _agree(expected, recorded, without):
            return f"the {name} differs from that of the sweep"
    return ""


def _texts(described: Any) -> dict[str, Any] | None:
    """Hashes of the texts of a description, and their names where the model writes them."""
    if not isinstance(described, Mapping):
        return None
    listed = described.get("texts", [described])
    if not isinstance(listed, list) or not all(isinstance(each, Mapping) for each in listed):
        return None
    return {
        "texts": [
            SELF if each.get("text") == SELF else str(each.get("text_sha256")) for each in listed
        ]
    }


def _agree(
    expected: Mapping[str, Any] | None, recorded: Any, without: frozenset[str] | None
) -> bool:
    """Whether a record has the expected values; ``without`` None: it may have others as well."""
    if expected is None:
        return recorded is None
    if not isinstance(recorded, Mapping):
        return False
    if without is None:
        return all(recorded.get(key) == value for key, value in expected.items())
    keys = (set(expected) | set(recorded)) - without
    return all(expected.get(key) == recorded.get(key) for key in keys)
