"""Files that a run has written, and the next step with them."""

import shlex
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

from converters import open_model
from converters.gguf import writer as gguf_writer
from converters.gguf.sizes import type_name_for
from converters.gguf.type_policy import phone_note
from converters.onnx import writer as onnx_writer
from converters.onnx.sizes import check_scheme
from converters.packed import mlx
from converters.packed.sizes import check_mlx_scheme
from phi3quant.cli.layout import print_values
from phi3quant.cli.terminal import echo, note
from phi3quant.errors import SchemeError
from phi3quant.quant.scheme import QuantScheme
from phi3quant.units import count, size

# Files that hold weights, by their names.
_WEIGHTS = ("*.safetensors", "*.gguf", "model.onnx*")

_PHONE_FORMATS: Mapping[str, Callable[[QuantScheme], object]] = {
    gguf_writer.FORMAT.name: type_name_for,
    onnx_writer.FORMAT.name: check_scheme,
    mlx.LAYOUT.name: check_mlx_scheme,
}
"""Formats for phones, with functions that raise SchemeError for schemes that they don't hold."""


def weight_files(folder: Path) -> list[Path]:
    """The files with a model's weights, and the graph of an ONNX model."""
    return sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)})


def print_files(title: str, folder: Path) -> None:
    """Print a folder's files that hold weights, and the number of all others, with their sizes.

    Folders in it are other formats of a run.
    """
    weights = weight_files(folder)
    others = [path for path in folder.iterdir() if path.is_file() and path not in weights]
    echo(f"{folder}: {title}")
    rows = [(f"  {path}", size(path.stat().st_size)) for path in weights]
    if others:
        total = size(sum(path.stat().st_size for path in others))
        rows.append((f"  and {count(len(others), 'other file')}", total))
    print_values(rows)


def note_next_steps(folders: Mapping[str, Path], schemes: Collection[QuantScheme] = ()) -> None:
    """Print on stderr how to use the formats of a run.

    Args:
        folders: by the name of their format.
        schemes: of packed folders, which phones can't run.
    """
    gguf, onnx = folders.get(gguf_writer.FORMAT.name), folders.get(onnx_writer.FORMAT.name)
    mlx_folder = folders.get(mlx.LAYOUT.name)
    first = next(iter(folders.values()))
    if gguf is not None:
        weights = weight_files(gguf)
        file = weights[0] if len(weights) == 1 else gguf
        note(f"next: copy {file} to the phone, for an app with llama.cpp")
    if onnx is not None:
        note(f"next: copy the folder {onnx} to the phone, for onnxruntime-genai")
    if mlx_folder is not None:
        note(f"next: copy the folder {mlx_folder} to a Mac or iPhone, for mlx-lm or mlx-swift")
    if gguf is None and onnx is None and mlx_folder is None and schemes:
        kind = _phone_format(schemes)
        if kind is not None:
            note(f"next: phi3quant export {kind} {shlex.quote(str(first))}   (for phones)")
    note(f'try:  phi3quant generate {shlex.quote(str(first))} "Hello"')


def _phone_format(schemes: Collection[QuantScheme]) -> str | None:
    """Format for phones that holds codes of all schemes; None if none does."""
    for name, check in _PHONE_FORMATS.items():
        with suppress(SchemeError):
            for scheme in schemes:
                check(scheme)
            return name
    return None


def note_slow_type(gguf: Path) -> None:
    """Print on stderr if a GGUF file is of a type that phones are slow with."""
    line = phone_note(open_model(gguf).format.removeprefix("GGUF "))
    if line:
        note(f"note: {line}")
