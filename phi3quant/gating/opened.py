"""An artifact or checkpoint, opened with all that is known of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from converters import open_model, open_tokenizer
from converters.onnx.reader import OnnxModel
from phi3quant.disk.hashed_file import sha256
from phi3quant.evaluation.inspection import linear_bits
from phi3quant.gating import facts
from phi3quant.provenance.sealing import read_provenance
from phi3quant.source.locate import Located
from phi3quant.source.stored_model import StoredWeights
from phi3quant.source.tokenizer import Tokenizer


@dataclass(frozen=True)
class Opened:
    """A model to compare.

    Attributes:
        located: where it lies.
        model: what can be scored.
        tokenizer: its own.
        provenance: what its manifest says; empty if it has none.
    """

    located: Located
    model: StoredWeights | OnnxModel
    tokenizer: Tokenizer
    provenance: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """Of its folder or file."""
        return self.located.path

    @property
    def name(self) -> str:
        """For people."""
        return self.located.name

    @property
    def weights(self) -> StoredWeights | None:
        """Its weights, read piece by piece; None where only a runtime reads them."""
        return None if isinstance(self.model, OnnxModel) else self.model

    @property
    def recipe(self) -> dict[str, Any]:
        """What decided the codes, whatever format holds them; empty if nothing says."""
        stated = _object(self.provenance.get("recipe"))
        decided = _object(stated.get("quantized_by")) or stated
        return {key: value for key, value in decided.items() if key not in _LAYOUT}

    @property
    def source(self) -> Mapping[str, Any]:
        """The checkpoint that was quantized: name and hashes; empty if nothing says."""
        recipe = _object(self.provenance.get("recipe"))
        return _object(recipe.get("quantized_from")) or _object(self.provenance.get("source"))

    def hashes(self) -> dict[str, str]:
        """SHA-256 of its files of weights and its config, by their names."""
        return {path.name: _hash(path, path.stat().st_mtime_ns) for path in self.model.files}

    def facts(self) -> dict[str, Any]:
        """See phi3quant.gating.facts."""
        return facts.facts(self.path, self.model.config, self.tokenizer)

    def description(self) -> dict[str, Any]:
        """What a baseline keeps of it."""
        return {
            "name": self.name,
            "kind": facts.kind(self.path),
            "format": self.model.format,
            "recipe": self.recipe or None,
            "bits_per_weight": linear_bits(self.model),
            "sha256": self.hashes(),
        }


def open_artifact(located: Located) -> Opened:
    """Open a model of any kind.

    Raises:
        Phi3QuantError: as converters.open_model and open_tokenizer.
    """
    return Opened(
        located,
        open_model(located.path),
        open_tokenizer(located.path),
        read_provenance(located.path),
    )


def weights_of(described: Mapping[str, Any]) -> dict[str, str]:
    """Of the hashes in a description, those of weights."""
    hashes = _object(described.get("sha256"))
    return {name: digest for name, digest in hashes.items() if not name.endswith(_NOT_WEIGHTS)}


_LAYOUT = ("formats", "onnx")
"""What of a recipe decides how codes are stored, not which."""
_NOT_WEIGHTS = (".json", ".jinja", ".model", ".txt")


@cache
def _hash(path: Path, _modified: int) -> str:
    return sha256(path)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
