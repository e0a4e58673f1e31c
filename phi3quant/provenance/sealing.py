"""Manifests of artifacts, beside the files and inside them: sealed, completed, read back."""

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
    """Complete an artifact: its manifest goes into its files where they can carry one, then beside.

    Args:
        folder: a draft, with all other files complete.
        manifest: from phi3quant.provenance.manifest.describe.
        known: hashes of the files as they are before anything is put into them.

    Raises:
        OutputError: a file can't be written.
    """
    entry = FORMATS.get(str(manifest.get("format")))
    hashed: Mapping[str, Mapping[str, Any]] = known or {}
    if entry is not None and entry.embed is not None:
        hashed = entry.embed(folder, flat(manifest))
    write_json(folder / MANIFEST, {**manifest, "files": describe_files(folder, hashed)})


def record_verifications(folder: Path, records: Mapping[Path, Mapping[str, Any]]) -> None:
    """Put results of a verification into the manifests of an artifact that is in use.

    The artifact is made anew beside itself, of the same files but for those that carry a manifest,
    and then replaced as a whole.

    Args:
        folder: of the artifact.
        records: by the folder of each format, ``folder`` itself or one in it.

    Raises:
        OutputError: a file can't be written.
        ResumeError: another command is making the same artifact.
    """
    with open_workspace(folder, overwrite=True) as workspace:
        draft = workspace.draft
        shutil.copytree(folder, draft, copy_function=_same_file)
        # From the inside out, as hashes of the outer ones pass over the inner.
        for place in sorted(records, reverse=True):
            copy = draft / place.relative_to(folder)
            manifest = read_json_if_there(copy / MANIFEST)
            # Files keep their hashes: gigabytes aren't read once more, and damage would show.
            seal(copy, {**manifest, "verification": records[place]}, manifest.get("files"))
        workspace.publish()


def _same_file(source: str, target: str) -> None:
    """The same bytes under another name; a copy where they are going to be changed in place."""
    if not source.endswith(GGUF_SUFFIX):
        try:
            os.link(source, target)
        except OSError:
            # Not every file system has links.
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
    """Manifest of an artifact, empty if it carries none.

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
