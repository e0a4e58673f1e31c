"""Quantization errors of each layer's matrices, from manifests."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phi3quant.model.architecture import LINEARS
from phi3quant.reporting.stated import listed, mapping, number
from phi3quant.reporting.variant import Variant

BLOCK = "block"
"""Column title of the error of a whole block."""


@dataclass(frozen=True)
class ErrorMap:
    """Error of each matrix, for variants that share their codes.

    Attributes:
        names: of those variants.
        kinds: columns: the matrices of a block, then BLOCK.
        errors: [layers][kinds], squared error of the output per token (of a matrix, before
            compensation) or mean squared error (of a block).
        relative: [layers][kinds], ratio to the error of rounding to nearest.
        fell_back: layers where rounding to nearest was kept.
        compensated: [layers], matrices whose codes compensate each other's errors (GPTQ).
    """

    names: Sequence[str]
    kinds: Sequence[str]
    errors: Sequence[Sequence[float | None]]
    relative: Sequence[Sequence[float | None]]
    fell_back: Sequence[int]
    compensated: Sequence[Sequence[str]]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "names": list(self.names),
            "kinds": list(self.kinds),
            "errors": [list(row) for row in self.errors],
            "relative": [list(row) for row in self.relative],
            "fell_back": list(self.fell_back),
            "compensated": [list(row) for row in self.compensated],
        }


def error_maps(variants: Sequence[Variant]) -> list[ErrorMap]:
    """Error maps of the variants that record errors; variants with equal records share one.

    Records with a wrong number of blocks belong to another model and are left out.
    """
    sharing: dict[str, list[Variant]] = {}
    for variant in variants:
        blocks = listed(variant.manifest.get("blocks"))
        if len(blocks) != variant.inspection.config.num_hidden_layers:
            continue
        if any(mapping(mapping(block).get("linears")) for block in blocks):
            sharing.setdefault(json.dumps(blocks, sort_keys=True), []).append(variant)
    return [_map(alike) for alike in sharing.values()]


def _map(variants: Sequence[Variant]) -> ErrorMap:
    blocks = [mapping(block) for block in listed(variants[0].manifest["blocks"])]
    pairs = [list(_pairs(block)) for block in blocks]
    return ErrorMap(
        [variant.name for variant in variants],
        (*LINEARS, BLOCK),
        [[error for error, _ in row] for row in pairs],
        [[_over(error, rounded) for error, rounded in row] for row in pairs],
        [index for index, block in enumerate(blocks) if block.get("fell_back_to_rtn") is True],
        [[str(name) for name in listed(block.get("compensated"))] for block in blocks],
    )


def _pairs(block: Mapping[str, Any]) -> Iterator[tuple[float | None, float | None]]:
    """Error of the chosen codes and of rounding to nearest, for each column."""
    linears = mapping(block.get("linears"))
    for kind in LINEARS:
        entry = mapping(linears.get(kind))
        yield number(entry.get("error")), number(entry.get("error_rtn"))
    yield number(block.get("output_error")), number(block.get("output_error_rtn"))


def _over(error: float | None, rounded: float | None) -> float | None:
    return number(error / rounded) if error is not None and rounded else None
