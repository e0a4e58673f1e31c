"""References to adapters, as they are given on the command line and recorded in manifests."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi3quant.errors import AdapterError
from phi3quant.model.config_file import ADAPTER_CONFIG

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)


@dataclass(frozen=True)
class AdapterReference:
    """An adapter to merge into a model.

    Attributes:
        name: its folder or hub id, or the name of an adapter inside the model's checkpoint.
        weight: factor of the change that it makes to the matrices.
        revision: commit of an adapter from the hub; None for others.
        folder: its folder on this machine; None for an adapter inside a checkpoint.
    """

    name: str
    weight: float = 1.0
    revision: str | None = None
    folder: Path | None = None

    def __str__(self) -> str:
        return self.name if self.weight == 1 else f"{self.name}={self.weight:g}"


def parse_adapter(text: str | Path | AdapterReference) -> AdapterReference:
    """Read ``FOLDER`` or ``FOLDER=WEIGHT``.

    Raises:
        AdapterError: the weight isn't a finite number.
    """
    if isinstance(text, AdapterReference):
        return text
    if isinstance(text, Path) or Path(text).is_dir() or "=" not in text:
        return AdapterReference(str(text))
    name, _, factor = text.rpartition("=")
    try:
        weight = float(factor)
    except ValueError:
        weight = float("nan")
    if not abs(weight) < float("inf"):
        raise AdapterError(
            f"{text}: {factor!r} is not a number; write FOLDER=WEIGHT, such as my-lora=0.5"
        )
    return AdapterReference(name, weight)


def recorded_adapters(source: Mapping[str, Any]) -> Sequence[AdapterReference]:
    """Adapters that a manifest records for its source; empty if there are none."""
    entries = source.get("adapters")
    return [
        AdapterReference(entry["name"], float(weight), _text(entry.get("revision")))
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, Mapping)
        and isinstance(entry.get("name"), str)
        and isinstance(weight := entry.get("weight", 1.0), int | float)
        and abs(weight) < sys.float_info.max
    ]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
