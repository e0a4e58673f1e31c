"""Manifests next to the files of an artifact and inside them: writing, updating, reading."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from converters import FORMATS, open_located
from converters.gguf.reader import GgufCheckpoint, is_gguf, open_gguf
from converters.onnx.embedded_manifest import read_metadata
from converters.onnx.file import is_onnx
from converters.onnx.reader import OnnxModel
from phi3quant.disk.output import MANIFEST, write_json
from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.disk.workspace import open_workspace
from phi3quant.provenance.manifest import describe_files, flat, unflat
from phi3quant.source.locate import GGUF_SUFFIX, Located
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredWeights


def seal(
    folder: Path,
    manifest: Mapping[str, Any],
    known: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write the manifest of an artifact into files whose format allows it, then next to them.

    Args:
        folder: a draft in which all other files are complete.
        manifest: from phi3quant.provenance.manifest.describe.
        known: sizes and hashes of the files before the manifest is written into them.

    Raises:
        OutputError: a file can't be written.
    """
    entry = FORMATS.get(str(manifest.get("format")))
    hashed: Mapping[str, Mapping[str, Any]] = known or {}
    if entry is not None and entry.embed is not None:
        hashed = entry.embed(folder, flat(manifest))
    write_json(folder / MANIFEST, {**manifest, "files": describe_files(folder, hashed)})


def record_verifications(folder: Path, records: Mapping[Path, Mapping[str, Any]]) -> None:
    """Add results of a verification to the manifests of a published artifact.

    A copy is made next to the artifact, with links to all files except those that contain a
    manifest. Then the copy replaces the artifact as a whole.

    Args:
        folder: folder of the artifact.
        records: results by the folder of each format, which is ``folder`` or a subfolder.

    Raises:
        OutputError: a file can't be written.
        ResumeError: another command is making the same artifact.
    """
    with open_workspace(folder, overwrite=True) as workspace:
        draft = workspace.draft
        shutil.copytree(folder, draft, copy_function=_same_file)
        # Subfolders first, since hashing the outer folder leaves them out.
        for format_folder in sorted(records, reverse=True):
            copy = draft / format_folder.relative_to(folder)
            manifest = read_json_if_there(copy / MANIFEST)
            # Known hashes are kept: that saves reading gigabytes and doesn't hide damage.
            seal(copy, {**manifest, "verification": records[format_folder]}, manifest.get("files"))
        workspace.publish()


def _same_file(source: str, target: str) -> None:
    """Link ``target`` to a file, or copy the file if it will be changed in place."""
    if not source.endswith(GGUF_SUFFIX):
        try:
            os.link(source, target)
        except OSError:
            # The file system doesn't support links.
            pass
        else:
            return
    shutil.copyfile(source, target)


def open_artifact(located: Located) -> OpenedModel[StoredWeights | OnnxModel]:
    """Open a model of any format, with its manifest.

    Raises:
        Phi3QuantError: as converters.open_model, or the manifest can't be read.
    """
    opened = open_located(located)
    if isinstance(opened.model, GgufCheckpoint) and not located.path.is_dir():
        return replace(opened, manifest=unflat(opened.model.model.fields))
    return replace(opened, manifest=read_provenance(located.path))


def read_provenance(path: Path) -> dict[str, Any]:
    """Manifest of an artifact; empty if there is none.

    It is read from the folder. For a folder without a manifest and for a GGUF file, which may have
    been moved, it is read from the metadata of the files.

    Args:
        path: the artifact's folder or GGUF file.

    Raises:
        CheckpointError: the manifest, or a file that contains one, can't be read.
    """
    manifest = path / MANIFEST if path.is_dir() else None
    if manifest is not None and manifest.is_file():
        return read_json_if_there(manifest)
    return unflat(_metadata(path))


def _metadata(path: Path) -> Mapping[str, Any]:
    """Metadata of an artifact's files, whose keys include those of the manifest."""
    if is_onnx(path):
        return read_metadata(path)
    return open_gguf(path).model.fields if is_gguf(path) else {}
