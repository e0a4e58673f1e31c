"""Manifests of artifacts, beside the files and inside them: sealed, completed, read back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters import FORMATS
from converters.from_gguf import is_gguf, open_gguf
from converters.onnx_file import is_onnx
from converters.onnx_provenance import read_metadata
from converters.writer import Embedded
from phi3quant.checkpoint import read_json_if_there
from phi3quant.manifest import describe_files, flat, unflat
from phi3quant.output import MANIFEST, write_json


def seal(
    folder: Path,
    manifest: Mapping[str, Any],
    known: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Complete an artifact: its manifest goes into its files where they can carry one, then beside.

    Args:
        folder: with all other files complete.
        manifest: from phi3quant.manifest.describe.
        known: hashes of the files as they are before anything is put into them.

    Raises:
        OutputError: a file can't be written; the files are then as they were.
    """
    entry = FORMATS.get(str(manifest.get("format")))
    embedded = Embedded(lambda: None, hashed=known or {})
    try:
        if entry is not None and entry.embed is not None:
            embedded = entry.embed(folder, flat(manifest))
        files = describe_files(folder, embedded.hashed)
        write_json(folder / MANIFEST, {**manifest, "files": files})
    except BaseException:
        # An interruption between the two would leave a file that its manifest disagrees with.
        embedded.undo()
        raise


def record_verification(folder: Path, verification: Mapping[str, Any]) -> None:
    """Put the result of a verification into an artifact's manifest.

    Raises:
        OutputError: a file can't be written.
    """
    manifest = read_json_if_there(folder / MANIFEST)
    # Files keep their hashes: gigabytes aren't read once more, and damage done since would show.
    seal(folder, {**manifest, "verification": verification}, manifest.get("files"))


def read_provenance(path: Path) -> dict[str, Any]:
    """What an artifact says of itself, empty if it says nothing.

    A folder's manifest stands beside; where there is none, and for a GGUF file, the files
    themselves are asked, for they may have been moved.

    Args:
        path: of the artifact's folder or GGUF file.

    Raises:
        CheckpointError: the manifest, or a file that carries one, can't be read.
    """
    beside = path / MANIFEST if path.is_dir() else None
    if beside is not None and beside.is_file():
        return read_json_if_there(beside)
    return unflat(_carried(path))


def _carried(path: Path) -> Mapping[str, Any]:
    """What an artifact's files carry inside."""
    if is_onnx(path):
        return read_metadata(path)
    return open_gguf(path).model.fields if is_gguf(path) else {}
