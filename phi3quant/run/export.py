"""Export of an existing model, plain or quantized, to another format."""

from dataclasses import replace
from pathlib import Path

from converters import LAYOUTS
from converters.gguf import sizes as gguf_sizes
from converters.gguf import writer as gguf_writer
from converters.gguf.importance import Importance, read_importance
from converters.gguf.type_policy import FileType
from converters.onnx import sizes as onnx_sizes
from converters.onnx import writer as onnx_writer
from converters.onnx.options import OnnxOptions
from converters.packed import mlx
from converters.packed.mlx_options import MlxOptions
from converters.packed.writer import PackedWriter, packed_bytes
from converters.parts import dequantized
from converters.plain import FLOAT_TYPES, NAME, PlainWriter, plan
from phi3quant.disk.hashed_file import sha256
from phi3quant.errors import SchemeError
from phi3quant.notices import notify
from phi3quant.progress import Progress, bars
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.draft import Judge
from phi3quant.run.export_run import Target, write_export
from phi3quant.run.export_source import ExportSource, open_source
from phi3quant.run.kept_codes import check_types, default_type, with_fitting_codes
from phi3quant.source.locate import Model


def export_gguf(  # noqa: PLR0913 - options by name, each of them documented
    model: Model,
    output: Path,
    *,
    kind: FileType | None = None,
    split_bytes: int | None = None,
    requantize: bool = False,
    imatrix: Path | None = None,
    context: int | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress = bars,
    judge: Judge | None = None,
) -> Artifacts:
    """Write a model as GGUF, one tensor in memory at a time.

    Args:
        model: a model of any format, a hub id, or None for the bundled phi3-tiny.
        output: folder to create, with the file (or its parts) and a manifest.
        kind: recipe from converters.gguf.type_policy.file_type. By default the one that holds the
            model's codes unchanged, and F16 for a plain checkpoint.
        split_bytes: limit on the bytes of tensors in a part; None for a single file.
        requantize: whether to round codes a second time where the types don't hold them.
        imatrix: importance matrix for the encoding of a plain checkpoint, in llama.cpp's GGUF form.
        context: fixed length of context in tokens; None for the model's own.
        revision: revision of a hub id.
        overwrite: whether to replace an ``output`` that phi3quant created, and to drop an
            unfinished run.
        progress: display of the blocks.
        judge: verification of the result before it is published; None to skip it.

    Raises:
        Phi3QuantError: see phi3quant.errors; ``output`` is as it was before the call.

    Examples:
        >>> import tempfile
        >>> from converters.gguf.type_policy import file_type
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     artifacts = export_gguf("phi3-tiny", Path(folder) / "out", kind=file_type("q8_0"))
        ...     [path.name for path in artifacts.folders["gguf"].glob("*.gguf")]
        ['phi3-tiny-Q8_0.gguf']
    """
    source = replace(open_source(model, revision), context=context)
    recipe = kind or default_type(source)
    if not requantize:
        check_types(source, recipe)
    notify(gguf_sizes.limit_notes(recipe, source.config))
    importance = None if imatrix is None else _importance(source, imatrix, recipe)
    target = Target(
        gguf_writer.FORMAT.name,
        recipe.name,
        gguf_sizes.nbytes(recipe, source.config),
        lambda folder, complete: gguf_writer.GgufWriter(
            folder, complete, recipe, split_bytes, importance
        ),
        {
            "type": recipe.name,
            "tensor_types": [f"{pattern.pattern}={name}" for pattern, name in recipe.overrides],
            **_context_entry(context),
            **_imatrix_entries(imatrix),
        },
    )
    return write_export(source, target, output, overwrite, progress, judge)


def export_onnx(  # noqa: PLR0913 - options by name, each of them documented
    model: Model,
    output: Path,
    *,
    options: OnnxOptions | None = None,
    requantize: bool = False,
    context: int | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress = bars,
    judge: Judge | None = None,
) -> Artifacts:
    """Write a model as an ONNX folder, one block in memory at a time.

    A quantized model keeps its codes. In a plain one at most embedding and head are quantized, if
    the options require it.

    Args:
        model: a model of any format, a hub id, or None for the bundled phi3-tiny.
        output: folder to create, with the graph, its weights, files for onnxruntime-genai, and a
            manifest.
        options: layout of the model; None for the defaults.
        requantize: whether to round codes that the operators can't hold to int4 in groups of 32.
        context: fixed length of context in tokens; None for the model's own.
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
    source = replace(open_source(model, revision), context=context)
    config = source.config
    layout = options
    source = with_fitting_codes(
        source, lambda schemes: onnx_sizes.check(schemes, config, layout), requantize=requantize
    )
    schemes = source.parts.schemes
    target = Target(
        onnx_writer.FORMAT.name,
        onnx_writer.FORMAT.title,
        onnx_sizes.nbytes(config, schemes, options),
        lambda folder, complete: onnx_writer.OnnxWriter(folder, complete, schemes, layout),
        {
            **options.settled(config, coded=schemes is not None).as_json(),
            **_types_entry(schemes),
            **_context_entry(context),
        },
    )
    return write_export(source, target, output, overwrite, progress, judge)


def export_packed(  # noqa: PLR0913 - options by name, each of them documented
    model: Model,
    output: Path,
    *,
    layout: str,
    requantize: bool = False,
    mlx_options: MlxOptions | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress = bars,
    judge: Judge | None = None,
) -> Artifacts:
    """Write a quantized model in a layout of packed folders, one block in memory at a time.

    Codes, scales and zero points stay the same.

    Args:
        model: a quantized model of any format, or a hub id.
        output: folder to create.
        layout: a key of converters.LAYOUTS.
        requantize: whether to round codes that the layout can't hold to int4 in groups of 32.
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
    source = open_source(model, revision)
    config = source.config
    if not source.parts.quantized:
        raise SchemeError(
            f"{source.opened.name} is not quantized, so it has no codes for {layout}; choose that "
            "layout when you quantize it (--export)"
        )

    def check(schemes: MatrixSchemes | None) -> None:
        assert schemes is not None
        chosen.check(schemes, config)

    source = with_fitting_codes(
        source, check, requantize=requantize, real_offsets=chosen.pack_offsets is not None
    )
    schemes = source.parts.schemes
    assert schemes is not None
    scheme = schemes.base
    target = Target(
        chosen.name,
        chosen.title,
        packed_bytes(config, schemes, chosen),
        lambda folder, complete: PackedWriter(folder, complete, schemes, chosen),
        {
            "bits": scheme.bits,
            "group_size": scheme.group_size,
            "symmetric": scheme.symmetric,
            **_types_entry(schemes),
        },
    )
    return write_export(source, target, output, overwrite, progress, judge)


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
        model: a model of any format, a hub id, or None for the bundled phi3-tiny.
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
    source = open_source(model, revision)
    source = replace(source, parts=dequantized(source.parts))
    target = Target(
        NAME,
        f"{NAME} {kind.stored}",
        sum(tensor.nbytes for tensor in plan(source.config, kind)),
        lambda folder, complete: PlainWriter(folder, complete, kind),
        {"dtype": dtype},
    )
    return write_export(source, target, output, overwrite, progress, judge)


def _types_entry(schemes: MatrixSchemes | None) -> dict[str, list[str]]:
    """Matrices that have another scheme than most, for the manifest."""
    if schemes is None or not schemes.others:
        return {}
    others = (f"{name.removesuffix('.weight')}={entry}" for name, entry in schemes.others.items())
    return {"tensor_types": list(others)}


def _context_entry(context: int | None) -> dict[str, int]:
    return {} if context is None else {"context": context}


def _imatrix_entries(imatrix: Path | None) -> dict[str, str]:
    if imatrix is None:
        return {}
    return {"imatrix": imatrix.name, "imatrix_sha256": sha256(imatrix)}


def _importance(source: ExportSource, imatrix: Path, recipe: FileType) -> Importance:
    if source.parts.quantized:
        raise SchemeError(
            f"{source.opened.name} is quantized and keeps its codes, so an importance matrix "
            "changes nothing; use the checkpoint it was made from"
        )
    importance = read_importance(imatrix, recipe, source.config)
    notify(importance.notes)
    return importance
