"""Importance matrices for llama.cpp, made from a model's calibration text."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calib.activations import Shelf
from calib.importance import InputSquares, input_squares
from converters import open_weights, tokenizer_of
from converters.gguf.imatrix import Imatrix, encode
from converters.gguf.names import gguf_name
from phi3quant import freed_memory
from phi3quant.disk.output import check_not_inside, clear_os_errors, write_bytes
from phi3quant.errors import CheckpointError, OutputError
from phi3quant.model.architecture import linear_shapes
from phi3quant.model.config import Phi3Config
from phi3quant.model.device import CPU, computing_on
from phi3quant.notices import notify
from phi3quant.progress import Progress, bars
from phi3quant.provenance import manifest
from phi3quant.run import preflight
from phi3quant.run.calibration import Calibration
from phi3quant.run.calibration_windows import calibration_windows, names_of
from phi3quant.run.memory_budget import Calibrated, Place
from phi3quant.run.written_windows import Writing
from phi3quant.source.locate import Model, locate
from phi3quant.source.opened_model import OpenedModel

_FULL = 4
"""Bytes of an FP32 number."""


@dataclass(frozen=True)
class Written:
    """A finished file.

    Attributes:
        path: the file.
        nbytes: its size.
        imatrix: its contents.
    """

    path: Path
    nbytes: int
    imatrix: Imatrix


def write_imatrix(
    model: Model,
    output: Path,
    *,
    calibration: Calibration | None = None,
    process_output: bool = False,
    overwrite: bool = False,
    max_memory: int | None = None,
    progress: Progress = bars,
    say: Callable[[str], None] = lambda _line: None,
) -> Written:
    """Write the importance matrix of a model as llama-imatrix does, block by block.

    Args:
        model: plain, packed or GGUF model, hub id, or None for the bundled phi3-tiny.
        output: file to write; it appears when it is complete.
        calibration: text, number and length of the windows; None for the defaults.
        process_output: whether to include the output matrix, as llama-imatrix does with the option
            of that name.
        overwrite: whether to replace an existing file.
        max_memory: limit on resident bytes; None for the available memory.
        progress: display of the blocks.
        say: receives a line about a large run.

    Raises:
        Phi3QuantError: see phi3quant.errors; ``output`` is as it was before the call.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "imatrix.gguf"
        ...     written = write_imatrix(None, file, calibration=Calibration(samples=2, length=64))
        ...     written.imatrix.counts["blk.0.attn_qkv.weight"]
        128
    """
    calibration = calibration or Calibration()
    if output.exists() and not overwrite:
        raise OutputError(f"{output} exists; choose another -o, or pass --overwrite to replace it")
    located = locate(model)
    if located.path.is_dir():
        check_not_inside(output, located.path)
    weights = open_weights(located.path, located.adapters)
    config = weights.config
    if process_output and config.tie_word_embeddings:
        notify([f"{located.name} has no output matrix of its own, so there are no sums for it"])
    size = Calibrated(calibration.samples, calibration.length, compensate=False)
    room = preflight.check(config, size, (output, _nbytes(config)), max_memory, say)
    opened = OpenedModel(located, weights, {}, lambda: tokenizer_of(weights, located.path))
    writing = Writing(max_memory=max_memory, progress=progress)
    stamps = manifest.stamps([*weights.files, *manifest.adapter_files(located)])
    text = calibration_windows(opened, calibration, writing)
    with (
        computing_on(CPU),
        freed_memory.kept(keep=room.keeps_freed),
        _shelf(output, in_memory=room.place is not Place.DISK) as shelf,
        progress("measuring importance", config.num_hidden_layers) as step,
    ):
        head = process_output and not config.tie_word_embeddings
        squares = input_squares(weights, text.ids, shelf, step, head=head)
    manifest.check_unchanged(stamps)
    imatrix = _imatrix(squares, names_of(text.description), text.ids.shape)
    source = {"name": located.name, "revision": located.revision}
    origin = {
        "source": source,
        "calibration": text.description,
        "tools": manifest.describe_tools(),
    }
    content = encode(imatrix, manifest.flat(origin))
    write_bytes(output, content, replace=overwrite)
    return Written(output, len(content), imatrix)


@contextmanager
def _shelf(output: Path, *, in_memory: bool) -> Iterator[Shelf]:
    if in_memory:
        yield Shelf()
        return
    with (
        clear_os_errors(output),
        tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder,
    ):
        yield Shelf(Path(folder))


def _imatrix(squares: InputSquares, datasets: Sequence[str], shape: tuple[int, ...]) -> Imatrix:
    sums = {}
    for name, values in squares.sums.items():
        sums[gguf_name(name)] = full = values.numpy().astype(np.float32)
        if not np.isfinite(full).all():
            raise CheckpointError(
                f"the inputs of {name} are too large for sums of their squares in FP32, or not "
                "finite; the model is damaged"
            )
    return Imatrix(sums, dict.fromkeys(sums, squares.tokens), tuple(datasets), *shape)


def _nbytes(config: Phi3Config) -> int:
    """Approximate size of a file."""
    columns = sum(columns for _, columns in linear_shapes(config).values())
    return _FULL * config.num_hidden_layers * columns + (1 << 16)
