"""Manifest of an artifact: source files, recipe, calibration, versions and hashes."""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from converters.format import MANIFEST_PREFIX
from phi3quant.disk.hashed_file import describe_file, sha256
from phi3quant.disk.output import MANIFEST
from phi3quant.disk.untrusted_json import parse_json
from phi3quant.errors import DamagedError, InputError
from phi3quant.source.adapter_reference import ADAPTER_FILES, AdapterReference
from phi3quant.source.locate import Located
from phi3quant.source.tokenizer import FILES
from phi3quant.version import tool_version

SCHEMA_VERSION = 1
_LIBRARIES = ("torch", "safetensors", "tokenizers", "numpy", "numba", "gguf", "onnxruntime")


def source_files(located: Located, weights: Sequence[Path]) -> list[Path]:
    """Existing files of a source checkpoint that are used: config, tokenizer and ``weights``."""
    names = ["config.json", "model.safetensors.index.json", *FILES]
    paths = [located.folder / name for name in names] + list(weights)
    return [path for path in dict.fromkeys(paths) if path.is_file()]


def adapter_files(located: Located) -> list[Path]:
    """Files of the adapters that are merged into a source checkpoint."""
    return [
        adapter.folder / name
        for adapter in located.adapters
        if adapter.folder is not None
        for name in ADAPTER_FILES
    ]


def stamps(files: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Size in bytes and modification time in ns of files, for ``check_unchanged``.

    Inode numbers are left out, because file systems in user space may change them.
    """
    stats = {path: path.stat() for path in files}
    return {path: (s.st_size, s.st_mtime_ns) for path, s in stats.items()}


def check_unchanged(before: Mapping[Path, tuple[int, int]]) -> None:
    """Refuse a result if the source changed during the run.

    Args:
        before: result of ``stamps`` at the start of the run.

    Raises:
        DamagedError: a file was changed, replaced or removed.
    """
    for path, stamp in before.items():
        try:
            now = stamps([path])[path]
        except OSError:
            now = None
        if now != stamp:
            raise DamagedError(
                f"{path} changed while it was read, so the result may be a mixture of two models; "
                "run the command again when nothing writes to that file"
            )


def describe_source(located: Located, files: Sequence[Path]) -> dict[str, Any]:
    """Name and revision of a source checkpoint, and the SHA-256 of every file by name.

    Adapters that are merged into it are described alike, each with its weight.
    """
    hashes = {path.name: sha256(path) for path in files}
    described: dict[str, Any] = {
        "name": located.name,
        "revision": located.revision,
        "sha256": hashes,
    }
    if located.adapters:
        described["adapters"] = [_describe_adapter(each) for each in located.adapters]
    return described


def _describe_adapter(adapter: AdapterReference) -> dict[str, Any]:
    """Name, weight, revision and hashes; an adapter inside a checkpoint has no files of its own."""
    folder = adapter.folder
    hashes = {} if folder is None else {name: sha256(folder / name) for name in ADAPTER_FILES}
    return {
        "name": adapter.name,
        "weight": adapter.weight,
        "revision": adapter.revision,
        "sha256": hashes,
    }


def describe_tools() -> dict[str, str]:
    """Versions of phi3quant, Python and the libraries that affect results."""
    return {
        "phi3quant": tool_version(),
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }


def describe(
    kind: str,
    source: Mapping[str, Any],
    recipe: Mapping[str, Any],
    calibration: Mapping[str, Any] | None,
    blocks: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Manifest of an artifact, without verification and without the hashes of its files.

    Args:
        kind: name of the format.
        source: from describe_source.
        recipe: all settings that affect the result.
        calibration: text and hashes; None for methods without calibration.
        blocks: errors of each block.
    """
    return {
        "schema": SCHEMA_VERSION,
        "format": kind,
        "source": source,
        "recipe": recipe,
        "calibration": calibration,
        "tools": describe_tools(),
        "blocks": blocks,
        "verification": None,
    }


def describe_files(
    folder: Path, known: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Mapping[str, Any]]:
    """Size and SHA-256 of every file of an artifact, by path relative to ``folder``.

    The manifest itself is left out, and so are subfolders with manifests of their own.

    Args:
        folder: folder of the artifact.
        known: results of describe_file by path, for files that needn't be read again.
    """
    known = known or {}
    return {name: known.get(name) or describe_file(folder / name) for name in _files(folder)}


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not (path / MANIFEST).is_file():
            yield from (f"{path.name}/{name}" for name in _files(path))
        elif path.is_file() and path.name != MANIFEST:
            yield path.name


def flat(manifest: Mapping[str, Any]) -> dict[str, str]:
    """A manifest as strings under ``phi3quant.`` keys, for formats with metadata in the file.

    Values that aren't strings become compact JSON. The hashes of files are left out, because the
    file that will contain this metadata is one of them.
    """
    return {
        f"{MANIFEST_PREFIX}{key}": value if isinstance(value, str) else _compact(value)
        for key, value in manifest.items()
        if key != "files"
    }


def unflat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Manifest from the strings of ``flat``; other keys are ignored.

    Values that aren't JSON stay strings, because the file may come from another program.
    """
    manifest: dict[str, Any] = {}
    for key, value in fields.items():
        if key.startswith(MANIFEST_PREFIX) and isinstance(value, str):
            try:
                manifest[key.removeprefix(MANIFEST_PREFIX)] = parse_json(value, where=key)
            except InputError:
                manifest[key.removeprefix(MANIFEST_PREFIX)] = value
    return manifest


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
