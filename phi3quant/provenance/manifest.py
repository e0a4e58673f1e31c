"""Where an artifact came from: source files, recipe, calibration and versions, all hashed."""

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
from phi3quant.source.locate import Located
from phi3quant.source.tokenizer import FILES
from phi3quant.version import tool_version

SCHEMA_VERSION = 1
_LIBRARIES = ("torch", "safetensors", "tokenizers", "numpy", "numba", "gguf", "onnxruntime")


def source_files(located: Located, weights: Sequence[Path]) -> list[Path]:
    """The files of a source checkpoint that are used: config, tokenizer and ``weights``."""
    names = ["config.json", "model.safetensors.index.json", *FILES]
    paths = [located.folder / name for name in names] + list(weights)
    return [path for path in dict.fromkeys(paths) if path.is_file()]


def stamps(files: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Size and time of change in ns of files, by which a later change is noticed.

    Inodes don't belong to it: file systems in user space number the same file anew at times.
    """
    found = {path: path.stat() for path in files}
    return {path: (s.st_size, s.st_mtime_ns) for path, s in found.items()}


def check_unchanged(before: Mapping[Path, tuple[int, int]]) -> None:
    """Refuse a result whose source changed while it was made.

    Args:
        before: from ``stamps``, when the run began.

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
                f"{path} changed while it was read, so that the result may be of two models; "
                "run the command again once nothing writes there"
            )


def describe_source(located: Located, files: Sequence[Path]) -> dict[str, Any]:
    """Name, revision and SHA-256 of every file of a source checkpoint, by the file's name."""
    hashes = {path.name: sha256(path) for path in files}
    return {"name": located.name, "revision": located.revision, "sha256": hashes}


def describe_tools() -> dict[str, str]:
    """Versions of phi3quant, Python and the libraries that take part in the numbers."""
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
    """An artifact's manifest, not yet verified and without the hashes of its files.

    Args:
        kind: the format's name.
        source: from describe_source.
        recipe: everything that decided what came out.
        calibration: text and hashes; None for methods without.
        blocks: errors of each.
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
    """Size and SHA-256 of every file of an artifact, by its path in the folder.

    The manifest itself is left out, and so are folders within that have one of their own.

    Args:
        folder: of the artifact.
        known: from describe_file, by path in the folder, so that these files aren't read again.
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
    """A manifest as strings under ``phi3quant.`` keys, for formats that carry such in the file.

    Values that aren't strings are compact JSON. The hashes of files stay out, since the file that
    will hold this is one of them.
    """
    return {
        f"{MANIFEST_PREFIX}{key}": value if isinstance(value, str) else _compact(value)
        for key, value in manifest.items()
        if key != "files"
    }


def unflat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest that ``flat`` made these strings of; other keys are passed over.

    What isn't JSON there stays a string: files come from anywhere.
    """
    found: dict[str, Any] = {}
    for key, value in fields.items():
        if key.startswith(MANIFEST_PREFIX) and isinstance(value, str):
            try:
                found[key.removeprefix(MANIFEST_PREFIX)] = parse_json(value, where=key)
            except InputError:
                found[key.removeprefix(MANIFEST_PREFIX)] = value
    return found


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
