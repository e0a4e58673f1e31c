"""From a checkpoint to a quantized folder: the only file that knows all the parts."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from calib.corpus import load_corpus, render, suitable
from converters import FORMATS, to_gguf, to_onnx
from converters.gguf_policy import file_type
from converters.onnx_options import OnnxOptions
from converters.writer import Format, ModelWriter, Source
from phi3quant import calibrated, manifest, provenance, windows
from phi3quant.checkpoint import Checkpoint, open_checkpoint
from phi3quant.codecs import Codecs
from phi3quant.codecs.affine import AffineCodec
from phi3quant.config import Phi3Config, read_config
from phi3quant.errors import CheckpointError, CorpusError, SchemeError
from phi3quant.hub import Located, locate
from phi3quant.layout import LINEARS
from phi3quant.methods import METHODS, Method
from phi3quant.output import (
    atomic_folder,
    check_not_inside,
    check_output_folder,
    check_space,
)
from phi3quant.progress import Progress, Step, silent
from phi3quant.scheme import QuantScheme
from phi3quant.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Calibration:
    """What text a method learns from.

    Attributes:
        source: as calib.corpus.load_corpus takes it; None: the bundled corpus that suits the model.
        field: the field of each record that holds the text.
        samples: windows at most.
        length: tokens in a window.
        seed: of the choice of windows.
    """

    source: str | Path | None = None
    field: str | None = None
    samples: int = 64
    length: int = 512
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out.

    Attributes:
        method: a key of phi3quant.methods.METHODS.
        scheme: bits, group size, symmetry.
        formats: keys of converters.FORMATS; the first is the output folder itself, further ones
            are folders in it.
        calibration: for methods that calibrate.
        compensate: whether later codes make up for the errors of earlier ones where that pays.
        gguf_type: a key of converters.gguf_policy.FILE_TYPES, in any case: codes are chosen for the
            types that it gives each matrix, in place of the scheme. Only with ``gguf`` alone.
        tensor_types: changes to gguf_type, as converters.gguf_policy.file_type takes them.
        onnx: how ``onnx`` among the formats is laid out.
    """

    method: str = "awq"
    scheme: QuantScheme = field(default_factory=QuantScheme)
    formats: tuple[str, ...] = (next(iter(FORMATS)),)
    calibration: Calibration = field(default_factory=Calibration)
    compensate: bool = True
    gguf_type: str | None = None
    tensor_types: tuple[str, ...] = ()
    onnx: OnnxOptions = field(default_factory=OnnxOptions)

    def codecs(self, config: Phi3Config, index: int) -> Codecs:
        """How each linear of block ``index`` is stored.

        Raises:
            SchemeError: the types don't fit the model's rows.
        """
        if self.gguf_type is None:
            return dict.fromkeys(LINEARS, AffineCodec(self.scheme))
        return to_gguf.codecs(file_type(self.gguf_type, self.tensor_types), config, index)

    def __str__(self) -> str:
        return self.gguf_type.upper() if self.gguf_type else str(self.scheme)


@dataclass(frozen=True)
class Quantized:
    """What ``quantize`` made.

    Attributes:
        source: the model it was made from.
        folders: one for each format, by the format's name.
        calibration: text, hashes and number of windows; None for a method without calibration.
        blocks: per block, output errors and whether it fell back to RTN.
    """

    source: Located
    folders: Mapping[str, Path]
    calibration: Mapping[str, Any] | None
    blocks: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class _Windows:
    """Calibration windows, int64 [windows, length], and where they came from."""

    ids: torch.Tensor
    description: Mapping[str, Any]


def quantize(
    model: str | Path | None,
    output: Path,
    recipe: Recipe,
    *,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Quantized:
    """Quantize a checkpoint into a new folder, one block in memory at a time.

    Args:
        model: a folder, a hub id, or None for the bundled phi3-tiny.
        output: the folder to make; it appears when everything in it is whole.
        recipe: method, scheme, formats and calibration.
        revision: of a hub id.
        overwrite: replace ``output`` if phi3quant made it.
        progress: is told of the stages.

    Raises:
        Phi3QuantError: see phi3quant.errors; nothing is left at ``output``.

    Examples:
        >>> import tempfile
        >>> recipe = Recipe("rtn", QuantScheme(bits=4, group_size=64))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = quantize("phi3-tiny", Path(folder) / "out", recipe)
        ...     (made.folders["compressed-tensors"] / "model.safetensors").is_file()
        True
    """
    located = locate(model, revision)
    checkpoint = _open_plain(located.path)
    formats = _formats(recipe)
    for entry in formats:
        entry.check(recipe.scheme, checkpoint.config)
    check_output_folder(output, overwrite=overwrite)
    check_not_inside(output, located.folder)
    need = sum(entry.nbytes(checkpoint.config, recipe.scheme) for entry in formats)
    check_space(output, need)
    method = METHODS[recipe.method]
    text = _calibration_windows(located, recipe.calibration) if method.calibrated else None

    with progress("hashing the source", 1) as step:
        source = manifest.describe_source(located, checkpoint.store.files)
        step()
    with atomic_folder(output, overwrite=overwrite) as partial, ExitStack() as stack:
        folders = {
            entry.name: partial if entry is formats[0] else partial / entry.name
            for entry in formats
        }
        original = Source(located.folder, located.name, checkpoint.config)
        with ExitStack() as open_writers:
            writers = [
                open_writers.enter_context(entry.open(folders[entry.name], original, recipe.scheme))
                for entry in formats
            ]
            step = stack.enter_context(
                progress(f"quantizing ({method.title})", checkpoint.config.num_hidden_layers)
            )
            blocks = _stream(checkpoint, recipe, method, text, writers, step)
        calibration = text.description if text else None
        stated = _describe(recipe, checkpoint.config)
        # From the inside out: a folder's manifest passes over those within that have their own.
        for name, folder in reversed(folders.items()):
            described = manifest.describe(name, source, stated, calibration, blocks)
            provenance.seal(folder, described)
    return Quantized(
        located,
        {name: output / path.relative_to(partial) for name, path in folders.items()},
        calibration,
        blocks,
    )


def _stream(
    checkpoint: Checkpoint,
    recipe: Recipe,
    method: Method,
    text: _Windows | None,
    writers: Sequence[ModelWriter],
    step: Step,
) -> list[dict[str, Any]]:
    """Take every block through calibration, method and writers, and forget it."""
    config = checkpoint.config
    embedding = checkpoint.embedding()
    for writer in writers:
        writer.embedding(embedding)
    states = None
    if text is not None:
        states = calibrated.start(config, embedding, text.ids)
    del embedding
    reports: list[dict[str, Any]] = []
    for index in range(config.num_hidden_layers):
        block = checkpoint.block(index)
        report: dict[str, Any] = {}
        codecs = recipe.codecs(config, index)
        if states is None:
            result = method.quantize_block(block, {}, config, codecs)
        else:
            result, report = calibrated.quantize_block(
                block, states, method, codecs, compensate=recipe.compensate
            )
        for writer in writers:
            writer.block(index, result)
        # Or else both would stay until the next ones are whole.
        del block, result
        reports.append(report)
        step(1, f"{report['error_ratio']:.3f} of RTN's error" if report else "")
    norm = checkpoint.final_norm()
    head = None if config.tie_word_embeddings else checkpoint.head()
    for writer in writers:
        writer.final(norm, head)
    return reports


def _open_plain(folder: Path) -> Checkpoint:
    if folder.is_file():
        raise CheckpointError(
            f"{folder} is a GGUF file; give the folder of the original checkpoint"
        )
    if read_config(folder).raw.get("quantization_config") is not None:
        raise CheckpointError(f"{folder} is quantized already; give the original checkpoint")
    return open_checkpoint(folder)


def _formats(recipe: Recipe) -> list[Format]:
    if recipe.method not in METHODS:
        raise SchemeError(f"there is no method {recipe.method!r}; choose from {list(METHODS)}")
    unknown = [name for name in recipe.formats if name not in FORMATS]
    if unknown or not recipe.formats:
        raise SchemeError(
            f"there is no format {', '.join(unknown) or '(none given)'}; "
            f"choose from {', '.join(FORMATS)}"
        )
    if recipe.gguf_type is None:
        if recipe.tensor_types:
            raise SchemeError("types of single tensors go with a GGUF type, and none is given")
        known = {**FORMATS, to_onnx.FORMAT.name: to_onnx.onnx_format(recipe.onnx)}
        return [known[name] for name in dict.fromkeys(recipe.formats)]
    if recipe.formats != (to_gguf.FORMAT.name,):
        raise SchemeError(
            f"GGUF types go with the format {to_gguf.FORMAT.name} alone, "
            f"not with {', '.join(recipe.formats)}"
        )
    return [to_gguf.typed_format(file_type(recipe.gguf_type, recipe.tensor_types))]


def _calibration_windows(located: Located, calibration: Calibration) -> _Windows:
    if calibration.samples < 1:
        raise CorpusError(f"{calibration.samples} calibration windows are too few; at least 1")
    tokenizer = load_tokenizer(located.folder)
    source = suitable(tokenizer) if calibration.source is None else calibration.source
    corpus = load_corpus(source, "calibration", calibration.field)
    ids = tokenizer.encode(render(corpus, tokenizer))
    everything = windows.cut_windows(ids, calibration.length, f"the calibration text {source}")
    sample = windows.sample_windows(everything, calibration.samples, calibration.seed)
    chosen = windows.shuffled_by_content(sample)
    description = {
        "text": corpus.name,
        "text_sha256": corpus.digest,
        "windows": len(chosen),
        "window_tokens": calibration.length,
        "seed": calibration.seed,
        "tokens_sha256": windows.digest(chosen),
    }
    return _Windows(chosen, description)


def _describe(recipe: Recipe, config: Phi3Config) -> dict[str, Any]:
    if recipe.gguf_type is not None:
        kind = recipe.gguf_type.upper()
        return {
            "method": recipe.method,
            "compensate": recipe.compensate and METHODS[recipe.method].calibrated,
            "gguf_type": kind,
            "tensor_types": list(recipe.tensor_types),
            "formats": list(recipe.formats),
        }
    described = {
        "method": recipe.method,
        "compensate": recipe.compensate and METHODS[recipe.method].calibrated,
        "bits": recipe.scheme.bits,
        "group_size": recipe.scheme.group_size,
        "symmetric": recipe.scheme.symmetric,
        "formats": list(recipe.formats),
    }
    if to_onnx.FORMAT.name in recipe.formats:
        described["onnx"] = recipe.onnx.settled(config, recipe.scheme).as_json()
    return described
