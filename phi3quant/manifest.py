"""Where an artifact came from: source files, recipe, calibration and versions, all hashed."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from phi3quant.checkpoint import read_json_if_there, sha256
from phi3quant.hub import Located
from phi3quant.output import MANIFEST, write_json
from phi3quant.tokenizer import FILES

SCHEMA_VERSION = 1
_LIBRARIES = ("torch", "safetensors", "tokenizers", "numpy", "onnxruntime")


def describe_source(located: Located, weights: Sequence[Path]) -> dict[str, Any]:
    """Name, revision and the SHA-256 of every file of a source checkpoint that is used."""
    names = ["config.json", "model.safetensors.index.json", *FILES]
    paths = [located.folder / name for name in names] + list(weights)
    hashes = {path.name: sha256(path) for path in paths if path.is_file()}
    return {"name": located.name, "revision": located.revision, "sha256": hashes}


def describe_tools() -> dict[str, str]:
    """Versions of phi3quant, Python and the libraries that take part in the numbers."""
    return {
        "phi3quant": tool_version(),
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }


def tool_version() -> str:
    """The installed version of phi3quant."""
    try:
        return version("phi3quant")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"


def write_manifest(
    folder: Path,
    source: Mapping[str, Any],
    recipe: Mapping[str, Any],
    calibration: Mapping[str, Any] | None,
    blocks: Sequence[Mapping[str, Any]],
) -> None:
    """Write ``folder``'s manifest, not yet verified.

    Raises:
        OutputError: the file can't be written.
    """
    write_json(
        folder / MANIFEST,
        {
            "schema": SCHEMA_VERSION,
            "source": source,
            "recipe": recipe,
            "calibration": calibration,
            "tools": describe_tools(),
            "blocks": blocks,
            "verification": None,
        },
    )


def record_verification(folder: Path, verification: Mapping[str, Any]) -> None:
    """Put the result of a verification into ``folder``'s manifest, atomically.

    Raises:
        OutputError: the file can't be written.
    """
    path = folder / MANIFEST
    write_json(path, {**read_json_if_there(path), "verification": verification})
