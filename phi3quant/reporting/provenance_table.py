"""Provenance of a variant, in rows."""

from collections.abc import Iterator, Mapping
from typing import Any

from phi3quant.reporting.stated import listed, mapping
from phi3quant.reporting.tables import Table
from phi3quant.reporting.variant import Variant
from phi3quant.source.adapter_reference import recorded_adapters


def provenance_table(variant: Variant) -> Table:
    """Source, recipe, calibration, verification, versions and hashes of one variant."""
    rows = [list(row) for row in _rows(variant)]
    note = (
        "" if variant.manifest else "It has no manifest, so its recipe and its source aren't known."
    )
    return Table(variant.name, ["", ""], rows, 2, note)


def _rows(variant: Variant) -> Iterator[tuple[str, str]]:
    manifest, source = variant.manifest, variant.opened.source
    if source:
        revision = f", revision {source['revision']}" if source.get("revision") else ""
        yield "source", f"{source.get('name')}{revision}"
    for name, digest in mapping(source.get("sha256")).items():
        yield f"source {name}", f"{digest}"
    for adapter in recorded_adapters(source):
        revision = f", revision {adapter.revision}" if adapter.revision else ""
        yield "adapter", f"{adapter}{revision}"
    for adapter in listed(source.get("adapters")):
        for name, digest in mapping(mapping(adapter).get("sha256")).items():
            yield f"adapter {name}", f"{digest}"
    for title in ("recipe", "calibration", "verification", "tools"):
        stated = mapping(manifest.get(title))
        if title == "verification":
            stated = mapping(stated.get("text"))
        if stated:
            yield _TITLES[title], listing(stated)
    for name, digest in variant.inspection.sha256.items():
        yield name, digest


_TITLES = {
    "recipe": "recipe",
    "calibration": "calibration text",
    "verification": "verification text",
    "tools": "versions",
}


def listing(values: Mapping[str, Any]) -> str:
    """An object on one line, nested objects in brackets."""
    return ", ".join(f"{key} {_value(value)}" for key, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({listing(value)})"
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return _WORDS.get(repr(value), str(value))


_WORDS = {"None": "none", "True": "yes", "False": "no"}
