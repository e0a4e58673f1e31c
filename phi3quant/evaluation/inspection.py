"""Inspection of a model folder: architecture, parameters, sizes, hashes, provenance."""

from dataclasses import asdict, dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from phi3quant.disk.hashed_file import sha256
from phi3quant.model.architecture import LINEARS, block_tensor_name, tensor_shapes
from phi3quant.model.config import Phi3Config
from phi3quant.model.predictor import CountSteps
from phi3quant.provenance.sealing import open_artifact
from phi3quant.source.locate import locate
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredModel


@dataclass(frozen=True)
class Inspection:
    """Facts of a model folder, from its headers.

    Attributes:
        name, path: name and path of the model.
        format: dtype such as ``safetensors F16``, or layout with its scheme.
        config: architecture.
        parameters: weights of the model, a tied head counted once.
        weight_bytes: bytes of all tensors together.
        linear_bits_per_weight: stored bits per weight of the blocks' matrices.
        sha256: SHA-256 of config.json and each weight file, by file name.
        manifest: provenance recorded by phi3quant; empty if there is none.
        notes: choices made while reading, one sentence each (see StoredModel).
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
        """Stored bits of the whole model per parameter."""
        return 8 * self.weight_bytes / self.parameters

    def as_json(self) -> dict[str, Any]:
        """Facts as JSON values."""
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
    """Inspect a model folder, plain or quantized.

    Raises:
        Phi3QuantError: see phi3quant.errors.

    Examples:
        >>> inspect("phi3-tiny").config.num_hidden_layers
        4
    """
    return inspection_of(open_artifact(locate(model, revision)))


def inspection_of(opened: OpenedModel[StoredModel]) -> Inspection:
    """Facts of an opened model."""
    model, config = opened.model, opened.config
    return Inspection(
        name=opened.name,
        path=opened.path,
        format=model.format,
        config=config,
        parameters=parameters(config),
        weight_bytes=model.weight_bytes,
        linear_bits_per_weight=linear_bits(model),
        sha256=hashes(model),
        manifest=dict(opened.manifest),
        notes=tuple(model.notes),
    )


def parameters(config: Phi3Config) -> int:
    """Number of weights of a model, a tied head counted once."""
    return sum(prod(shape) for shape in tensor_shapes(config).values())


def hashes(model: StoredModel, tell: CountSteps = lambda _steps: None) -> dict[str, str]:
    """SHA-256 of a model's weight files and config.json, by file name.

    Args:
        model: an opened model.
        tell: called after each file.
    """
    digests = {}
    for path in model.files:
        digests[path.name] = _hash(path, path.stat().st_mtime_ns)
        tell(1)
    return digests


@cache
def _hash(path: Path, _modified: int) -> str:
    return sha256(path)


def linear_bits(model: StoredModel) -> float:
    """Stored bits per weight of the blocks' matrices, including scales."""
    shapes = tensor_shapes(model.config)
    weights = sum(
        prod(shapes[block_tensor_name(index, key)])
        for index in range(model.config.num_hidden_layers)
        for key in LINEARS
    )
    return 8 * model.linear_bytes / weights
