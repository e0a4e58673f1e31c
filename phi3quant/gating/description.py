"""Descriptions of artifacts in baselines."""

from collections.abc import Mapping
from typing import Any

from phi3quant.evaluation.inspection import hashes, linear_bits
from phi3quant.gating import facts
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredModel

_NOT_WEIGHTS = (".json", ".jinja", ".model", ".txt")


def describe(opened: OpenedModel[StoredModel]) -> dict[str, Any]:
    """Name, kind, format, recipe, size and hashes of an artifact."""
    return {
        "name": opened.name,
        "kind": facts.kind(opened.model),
        "format": opened.model.format,
        "recipe": opened.recipe or None,
        "bits_per_weight": linear_bits(opened.model),
        "sha256": hashes(opened.model),
    }


def weights_of(described: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the weight files among a description's hashes, by file name."""
    digests = described.get("sha256")
    if not isinstance(digests, Mapping):
        return {}
    return {name: digest for name, digest in digests.items() if not name.endswith(_NOT_WEIGHTS)}
