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
    """SHA-256 of the weight files among a description's hashes, by file name.

    Those of merged adapters have the adapter's number and weight in front.
    """
    digests = described.get("sha256")
    if not isinstance(digests, Mapping):
        return {}
    hashes = {name: digest for name, digest in digests.items() if not name.endswith(_NOT_WEIGHTS)}
    adapters = described.get("adapters")
    for number, entry in enumerate(adapters if isinstance(adapters, list) else [], 1):
        if isinstance(entry, Mapping):
            hashes[f"adapter {number}"] = _digest_of(entry)
    return hashes


def _digest_of(adapter: Mapping[str, Any]) -> str:
    """Hashes and weight of an adapter; one inside the checkpoint has its name in their place."""
    digests = adapter.get("sha256")
    files = digests if isinstance(digests, Mapping) and digests else {"": adapter.get("name")}
    return f"{' '.join(str(files[name]) for name in sorted(files))} x {adapter.get('weight')}"
