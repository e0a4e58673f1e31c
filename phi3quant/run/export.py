"""Export of an existing model, plain or quantized, to another format."""

from pathlib import Path

from converters import LAYOUTS
from converters.gguf import sizes as gguf_sizes
from converters.gguf import writer as gguf_writer
from converters.gguf.type_policy import FileType, file_type
from converters.onnx import sizes as onnx_sizes
from converters.onnx import writer as onnx_writer
from converters.onnx.options import OnnxOptions
from converters.packed import mlx
from converters.packed.mlx_options import MlxOptions
from converters.packed.reader import PackedCheckpoint
from converters.packed.writer import PackedWriter, packed_bytes
from converters.plain import FLOAT_TYPES, NAME, PlainWriter, plan
from phi3quant.errors import SchemeError
from phi3quant.progress import Progress, bars
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.draft import Judge
from phi3quant.run.export_run import Exportable, Target, open_source, write_export
from phi3quant.source.locate import Model

PLAIN_TYPE = "F16"
"""Default type for a checkpoint that is not quantized."""


def export_gguf(  # noqa: PLR0913 - options by name, each of them documented
    model: Model,
    output: Path,
    *,
    kind: FileType | None = None,
    split_bytes: int | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress = bars,
    judge: Judge | None = None,
) -> Artifacts:
    """Write a model as GGUF, one tensor in memory at a time.

    Args:
        model: plain or packed folder, hub id, or None for the bundled phi3-tiny.
        output: folder to create, with the file (or its parts) and a manifest.
        kind: recipe from converters.gguf.type_policy.file_type. By default the one that holds the
            model's codes unchanged, and F16 for a plain checkpoint.
        split_bytes: limit on the bytes of tensors in a part; None for a single file.
        revision: revision of a hub id.
        overwrite: whether to replace an ``output`` that phi3quant created, and to drop an
            unfinished run.
        progress: display of the blocks.
        judge: verification of the result before it is published; None to skip it.

    Raises:
        Phi3QuantError: see phi3quant.errors; ``output`` is as it was before the call.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     artifacts = export_gguf("phi3-tiny", Path(folder) / "out", kind=file_type("q8_0"))
        ...     [path.name for path in artifacts.folders["gguf"].glob("*.gguf")]
        ['phi3-tiny-Q8_0.gguf']
    """
    opened = open_source(model, revision, real_offsets=True)
    recipe = kind or _default_type(opened.model)
    target = Target(
        gguf_writer.FORMAT.name,
        recipe.name,
        gguf_sizes.nbytes(recipe, opened.config),
        lambda folder, source: gguf_writer.GgufWriter(folder, source, recipe, split_bytes),
        {
            "type": recipe.name,
            "tensor_types": [f"{pattern.pattern}={name}" for pattern, name in recipe.overrides],
        },
    )
    return write_export(opened, target, output, overwrite, progress, judge)


def export_onnx(
    model: Model,
    output: Path,
    *,
    options: OnnxOptions | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress = bars,
    judge: Judge | None = None,
) -> Artifacts:
    """Write a model as an ONNX folder, one block in memory at a time.

    A packed model keeps its codes. In a plain one at most embedding and head are quantized, if the
    options require it.

    Args:
        model: plain or packed folder, hub id, or None for the bundled phi3-tiny.
        output: folder to create, with the graph, its weights, files for onnxruntime-genai, and a
            manifest.
        options: layout of the model; None for the defaults.
        revision: revision of a hub id.
        overwrite: whether to replace an ``output`` that phi3quant created, and to drop an
            unfinished run.
        progress: display of the blocks.
        judge: verification of the result before it is published; None to skip it.

    Raises:
        Phi3QuantError: see phi3quant.errors; ``output`` is as it was before the call.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     artifacts = export_onnx("phi3-tiny", Path(folder) / "out")
        ...     (artifacts.folders["onnx"] / "model.onnx").is_file()
        True
    """
    options = options or OnnxOptions()
    opened = open_source(model, revision)
    scheme = opened.model.scheme if isinstance(opened.model, PackedCheckpoint) else None
    onnx_sizes.check(scheme, opened.config, options)
    target = Target(
        onnx_writer.FORMAT.name,
        onnx_writer.FORMAT.title,
        onnx_sizes.nbytes(opened.config, scheme, options),
        lambda folder, source: onnx_writer.OnnxWriter(folder, source, scheme, options),
        options.settled(opened.config, scheme).as_json(),
    )
    return write_export(opened, target, output, overwrite, progress, judge)


def export_packed(  # noqa: PLR0913 - options by name, each of them documented
    model: Model,
    output: Path,
    *,
    layout: str,
    mlx_options: MlxOptions | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress = bars,
    judge: Judge | None = None,
) -> Artifacts:
    """Write a packed model in another layout of packed folders, one block in memory at a time.

    Codes, scales and zero points stay the same.

    Args:
        model: packed folder or hub id.
        output: folder to create.
        layout: a key of converters.LAYOUTS.
        mlx_options: embedding and head of ``mlx``; None for the defaults.
        revision: revision of a hub id.
        overwrite: whether to replace an ``output`` that phi3quant created, and to drop an
            unfinished run.
        progress: display of the blocks.
        judge: verification of the result before it is published; None to skip it.

    Raises:
        Phi3QuantError: see phi3quant.errors; ``output`` is as it was before the call.
    """
    if layout not in LAYOUTS:
        raise SchemeError(f"there is no layout {layout!r}; choose from {', '.join(LAYOUTS)}")
    chosen = LAYOUTS[layout]
    if mlx_options is not None and layout == mlx.LAYOUT.name:
        chosen = mlx.mlx_layout(mlx_options)
    opened = open_source(model, revision)
    if not isinstance(opened.model, PackedCheckpoint):
        raise SchemeError(
            f"{opened.name} is not quantized, so it has no codes for {layout}; choose that layout "
            "when you quantize it (--export)"
        )
    scheme = opened.model.scheme
    chosen.check(scheme, opened.config)
    target = Target(
        chosen.name,
        chosen.title,
        packed_bytes(opened.config, scheme, chosen),
        lambda folder, source: PackedWriter(folder, source, scheme, chosen),
        {"bits": scheme.bits, "group_size": scheme.group_size, "symmetric": scheme.symmetric},
    )
    return write_export(opened, target, output, overwrite, progress, judge)


def export_safetensors(
    model: Model,
    output: Path,
    *,
    dtype: str = next(iter(FLOAT_TYPES)),
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress = bars,
    judge: Judge | None = None,
) -> Artifacts:
    """Write a plain checkpoint: codes are dequantized, and adapters merged.

    Args:
        model: plain or packed folder, hub id, or None for the bundled phi3-tiny.
        output: folder to create.
        dtype: a key of converters.plain.FLOAT_TYPES.
        revision: revision of a hub id.
        overwrite: whether to replace an ``output`` that phi3quant created, and to drop an
            unfinished run.
        progress: display of the blocks.
        judge: verification of the result before it is published; None to skip it.

    Raises:
        Phi3QuantError: see phi3quant.errors; ``output`` is as it was before the call.
    """
    if dtype not in FLOAT_TYPES:
        raise SchemeError(f"there is no dtype {dtype!r}; choose from {', '.join(FLOAT_TYPES)}")
    kind = FLOAT_TYPES[dtype]
    opened = open_source(model, revision, as_codes=False)
    target = Target(
        NAME,
        f"{NAME} {kind.stored}",
        sum(tensor.nbytes for tensor in plan(opened.config, kind)),
        lambda folder, source: PlainWriter(folder, source, kind),
        {"dtype": dtype},
    )
    return write_export(opened, target, output, overwrite, progress, judge)


def _default_type(model: Exportable) -> FileType:
    if isinstance(model, PackedCheckpoint):
        # Codes with zero points may in fact be symmetric, but the layout doesn't record that.
        return gguf_sizes.natural_type(model.scheme)
    return file_type(PLAIN_TYPE)
