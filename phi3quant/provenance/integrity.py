"""Comparison of an artifact's files with the hashes in its manifest."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec

from converters.gguf.embedded_manifest import TENSORS_SHA256, tensors_sha256
from converters.gguf.reader import is_gguf, open_gguf
from converters.onnx.data import FILE_LIST, read_file_list
from phi3quant.disk.hashed_file import sha256
from phi3quant.disk.output import MANIFEST
from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.errors import NotComparableError
from phi3quant.model.predictor import CountSteps


@dataclass(frozen=True)
class FileCheck:
    """Result of comparing a file with its hash.

    Attributes:
        name: path of the file in the artifact; "(tensors)" is appended if only its tensors are
            hashed.
        problem: the difference, such as "is missing"; empty if there is none.
    """

    name: str
    problem: str


def check_hashes(path: Path, tell: CountSteps = lambda _steps: None) -> list[FileCheck]:
    """Compare every file of an artifact, and of the artifacts in its subfolders, with its manifest.

    A GGUF file without its folder is compared with the hash of its tensors in its metadata. An
    ONNX folder without a manifest is compared with its list of files.

    Args:
        path: folder or GGUF file.
        tell: called after each file; see count_hashes.

    Raises:
        NotComparableError: the artifact has no manifest with hashes, or the hashes are malformed.
        CheckpointError: a list of files can't be read.
    """
    if path.is_file():
        checked = [_check_tensors(path)]
        tell(1)
        return checked
    inner_checks = [
        FileCheck(f"{inner.parent.name}/{check.name}", check.problem)
        for inner in _inner_manifests(path)
        for check in check_hashes(inner.parent, tell)
    ]
    files = _expected(path)
    if files is None:
        raise NotComparableError(
            f"{path} has no {MANIFEST} with hashes of its files, so its integrity can't be checked"
        )
    checks = []
    for name, entry in files.items():
        checks.append(_check_file(path, name, entry))
        tell(1)
    return checks + inner_checks


def count_hashes(path: Path) -> int:
    """Number of files that ``check_hashes`` compares.

    Raises:
        NotComparableError: as check_hashes.
    """
    if path.is_file():
        return 1
    inner = sum(count_hashes(manifest.parent) for manifest in _inner_manifests(path))
    return len(_expected(path) or ()) + inner


def check_source(manifest: Mapping[str, Any], folder: Path) -> list[FileCheck]:
    """Compare the files of a folder with the hashes of an artifact's source.

    Args:
        manifest: manifest of the artifact.
        folder: folder of the presumed source.

    Raises:
        NotComparableError: the manifest has no hashes of a source, or they are malformed.
    """
    source = manifest.get("source")
    hashes = source.get("sha256") if isinstance(source, Mapping) else None
    if not isinstance(hashes, Mapping) or not hashes:
        raise NotComparableError(
            "the manifest has no hashes of a source, so no source can be compared with it"
        )
    files = {name: {"sha256": digest} for name, digest in hashes.items()}
    entries = _entries(files, Path(MANIFEST))
    return [_check_file(folder, name, entry) for name, entry in entries.items()]


def check_adapters(manifest: Mapping[str, Any]) -> tuple[list[FileCheck], list[str]]:
    """Compare the adapters that were merged into an artifact's source with their hashes.

    Args:
        manifest: manifest of the artifact.

    Returns:
        One check for each file of the adapters that are in the folders recorded for them, and the
        names of the other adapters. Those inside a checkpoint are left out; they have no files.

    Raises:
        NotComparableError: the hashes are malformed.
    """
    source = manifest.get("source")
    adapters = source.get("adapters") if isinstance(source, Mapping) else None
    checks: list[FileCheck] = []
    elsewhere: list[str] = []
    for adapter in adapters if isinstance(adapters, list) else []:
        name, hashes = (
            (adapter.get("name"), adapter.get("sha256"))
            if isinstance(adapter, Mapping)
            else (None, None)
        )
        if not isinstance(name, str) or not isinstance(hashes, Mapping):
            raise NotComparableError("the manifest has an adapter without a name or hashes")
        if hashes and not Path(name).is_dir():
            elsewhere.append(name)
            continue
        files = {file: {"sha256": digest} for file, digest in hashes.items()}
        for file, entry in _entries(files, Path(MANIFEST)).items():
            check = _check_file(Path(name), file, entry)
            checks.append(replace(check, name=f"{name}/{file}"))
    return checks, elsewhere


def has_hashes(path: Path) -> bool:
    """Whether an artifact has hashes that ``check_hashes`` can compare it with."""
    if path.is_dir():
        return _expected(path) is not None
    return is_gguf(path) and TENSORS_SHA256 in open_gguf(path).model.fields


def _inner_manifests(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*/{MANIFEST}"))


class _Entry(msgspec.Struct):
    """Size and hash of a file in a manifest."""

    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None


def _expected(folder: Path) -> Mapping[str, _Entry] | None:
    """Expected sizes and hashes, from the manifest or else from an ONNX folder's list of files."""
    if not (folder / MANIFEST).is_file():
        return _entries(read_file_list(folder), folder / FILE_LIST) or None
    files = read_json_if_there(folder / MANIFEST).get("files")
    return None if files is None else _entries(files, folder / MANIFEST)


def _entries(files: Any, where: Path) -> dict[str, _Entry]:
    try:
        return msgspec.convert(files, dict[str, _Entry])
    except msgspec.ValidationError as error:
        raise NotComparableError(
            f"{where} has no usable hashes of the files (files: {error})"
        ) from None


def _check_file(folder: Path, name: str, entry: _Entry) -> FileCheck:
    file = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise NotComparableError(
            f"the {MANIFEST} of {folder} lists {name}, which is outside the folder"
        )
    try:
        if not file.is_file():
            return FileCheck(name, "is missing")
        size = file.stat().st_size
        if entry.bytes is not None and size != entry.bytes:
            return FileCheck(name, f"has {size:,} bytes; the manifest has {entry.bytes:,}")
        digest = sha256(file)
    except OSError as error:
        return FileCheck(name, f"can't be read: {error.strerror}")
    if digest != entry.sha256:
        return FileCheck(name, f"has SHA-256 {digest}; the manifest has {entry.sha256}")
    return FileCheck(name, "")


def _check_tensors(path: Path) -> FileCheck:
    model = open_gguf(path).model if is_gguf(path) else None
    expected = model.fields.get(TENSORS_SHA256) if model else None
    if model is None or not isinstance(expected, str):
        raise NotComparableError(
            f"{path} has no hash of its tensors ({TENSORS_SHA256}), so its integrity can't be "
            "checked"
        )
    digest = tensors_sha256(model)
    name = f"{path.name} (tensors)"
    if digest != expected:
        return FileCheck(name, f"have SHA-256 {digest}; the file's metadata has {expected}")
    return FileCheck(name, "")
