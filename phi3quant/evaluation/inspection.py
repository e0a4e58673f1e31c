"""What a model folder holds: architecture, parameters, sizes, hashes, provenance."""

from dataclasses import asdict, dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from phi3quant.disk.hashed_file import sha256
from phi3quant.model.architecture import LINEARS, block_tensor_name, tensor_shapes
from phi3quant.model.config import Phi3Config
from phi3quant.provenance.sealing import open_artifact
from phi3quant.source.locate import locate
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredModel


@dataclass(frozen=True)
class Inspection:
    """A model folder's facts, from its headers; no weights are computed with.

    Attributes:
        name, path: what was looked at.
        format: ``safetensors F16`` and the like, or the layout with its scheme.
        config: the architecture.
        parameters: weights of the model, a tied head counted once.
        weight_bytes: of all tensors together.
        linear_bits_per_weight: stored bits for each weight of the blocks' matrices.
        sha256: of each weight file and config.json.
        manifest: phi3quant's record of how it was made, if it has one.
        notes: choices made while reading, a sentence each; see checkpoint.StoredModel.
    """

    name: str
    path: Path
    format: str
    config: Phi3Config
    parameters: int
    weight_bytes: int
    linear_bits_per_weight: float
    sha256: dict[str, str]
    manifest: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def bits_per_weight(self) -> float:
        """Bits of the whole model over its parameters."""
        return 8 * self.weight_bytes / self.parameters

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        architecture = asdict(self.config)
        del architecture["raw"]
        return {
            "name": self.name,
            "path": str(self.path),
            "format": self.format,
            "architecture": architecture,
            "parameters": self.parameters,
            "bytes": self.weight_bytes,
            "bits_per_weight": self.bits_per_weight,
            "linear_bits_per_weight": self.linear_bits_per_weight,
            "sha256": self.sha256,
            "manifest": self.manifest or None,
            "notes": list(self.notes),
        }


def inspect(model: str | Path | None, revision: str | None = None) -> Inspection:
    """Look at a model folder, plain or quantized.

    Raises:
        Phi3QuantError: see phi3quant.errors.

    Examples:
        >>> inspect("phi3-tiny").config.num_hidden_layers
        4
    """
    return inspection_of(open_artifact(locate(model, revision)))


def inspection_of(opened: OpenedModel[StoredModel]) -> Inspection:
    """Facts of a model that has been opened."""
    model, config = opened.model, opened.config
    return Inspection(
        name=opened.name,
        path=opened.path,
        format=model.format,
        config=config,
        parameters=sum(prod(shape) for shape in tensor_shapes(config).values()),
        weight_bytes=model.weight_bytes,
        linear_bits_per_weight=linear_bits(model),
        sha256=hashes(model),
        manifest=dict(opened.manifest),
        notes=tuple(model.notes),
    )


def hashes(model: StoredModel) -> dict[str, str]:
    """SHA-256 of a model's weight files and config.json, by file name."""
    return {path.name: _hash(path, path.stat().st_mtime_ns) for path in model.files}


@cache
def _hash(path: Path, _modified: int) -> str:
    return sha256(path)


def linear_bits(model: StoredModel) -> float:
    """Stored bits for each weight of the blocks' matrices, scales included."""
    shapes = tensor_shapes(model.config)
    weights = sum(
        prod(shapes[block_tensor_name(index, key)])
        for index in range(model.config.num_hidden_layers)
        for key in LINEARS
    )
    return 8 * model.linear_bytes / weights
