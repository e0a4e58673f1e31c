"""An artifact in a report: its files, its size and its recipe."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi3quant.disk.output import MANIFEST
from phi3quant.errors import InputError
from phi3quant.evaluation.evaluate import Artifact
from phi3quant.evaluation.inspection import Inspection, inspection_of
from phi3quant.model.config import Phi3Config
from phi3quant.provenance.sealing import open_artifact
from phi3quant.quant.methods import METHODS
from phi3quant.source.locate import Located, locate


@dataclass(frozen=True)
class Variant:
    """One artifact.

    Attributes:
        name: path as it was given.
        opened: model with tokenizer and manifest.
        inspection: sizes and hashes.
    """

    name: str
    opened: Artifact
    inspection: Inspection

    @property
    def path(self) -> Path:
        """Folder or file."""
        return self.opened.path

    @property
    def config(self) -> Phi3Config:
        """Architecture."""
        return self.opened.config

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Manifest; empty if it has none."""
        return self.opened.manifest

    @property
    def method(self) -> str:
        """Quantization method for tables; empty if it isn't recorded."""
        recipe = self.opened.recipe
        method = METHODS.get(str(recipe.get("method")))
        if method is None:
            return ""
        compensated = method.calibrated and recipe.get("compensate") and method.title != "GPTQ"
        return method.title + (" with compensation" if compensated else "")

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        inspection = self.inspection
        return {
            "name": self.name,
            "format": inspection.format,
            "method": self.method or None,
            "bytes": inspection.weight_bytes,
            "parameters": inspection.parameters,
            "bits_per_weight": inspection.bits_per_weight,
            "sha256": inspection.sha256,
            "manifest": dict(self.manifest) or None,
        }


def open_variants(runs: Sequence[str | Path]) -> list[Variant]:
    """Open artifacts and the formats in their subfolders; duplicates count once.

    Args:
        runs: output folders, .gguf files, ONNX folders.

    Raises:
        InputError: ``runs`` is empty.
        Phi3QuantError: an artifact can't be read.
    """
    places: dict[Path, str] = {}
    for run in runs:
        for name in _within(run):
            places.setdefault(locate(name).path.resolve(), name)
    if not places:
        raise InputError("there are no artifacts to report on; give the output folder of a run")
    return [_open(name) for name in places.values()]


def _within(run: str | Path) -> Iterator[str]:
    yield str(run)
    if Path(run).is_dir():
        yield from (str(file.parent) for file in sorted(Path(run).glob(f"*/{MANIFEST}")))


def _open(name: str) -> Variant:
    located = locate(name)
    named = Located(located.path, name, located.revision)
    opened = open_artifact(named)
    return Variant(name, opened, inspection_of(opened))
