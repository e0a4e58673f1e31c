"""Export of an existing model, plain or quantized, to another format."""

from dataclasses import replace
from pathlib import Path

from converters import LAYOUTS
from converters.gguf import sizes as gguf_sizes
from converters.gguf import writer as gguf_writer
from converters.gguf.importance import Importance, read_importance
from converters.gguf.type_policy import FileType, file_type
from converters.onnx import sizes as onnx_sizes
from converters.onnx import writer as onnx_writer
from converters.onnx.options import OnnxOptions
from converters.packed.reader import PackedCheckpoint
from converters.packed.sizes import packed_tensors
from converters.packed.writer import PackedWriter
from converters.plain import FLOAT_TYPES, NAME, PlainWriter, plan
from phi3quant.disk.hashed_file import sha256
from phi3quant.errors import SchemeError
from phi3quant.model.config import Phi3Config
from phi3quant.model.fixed_context import fixed_context
from phi3quant.notices import notify
from phi3quant.progress import Progress, bars
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.draft import Judge
from phi3quant.run.export_run import Exportable, Target, open_source, write_export
from phi3quant.source.checkpoint import Checkpoint
from phi3quant.source.locate import Model
from phi3quant.source.opened_model import OpenedModel

PLAIN_TYPE = "F16"
"""Default type for a checkpoint that is not quantized."""


def export_gguf(  # noqa: PLR0913 - options by name, each of them documented
    model: Model,
    output: Path,
    *,
    kind: FileType | None = None,
    split_bytes: int | None = None,
    imatrix: Path | None = None,
    context: int | None = None,
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
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     artifacts = export_gguf("phi3-tiny", Path(folder) / "out", kind=file_type("q8_0"))
        ...     [path.name for path in artifacts.folders["gguf"].glob("*.gguf")]
        ['phi3-tiny-Q8_0.gguf']
    """
    opened = open_source(model, revision)
    config = _config(opened, context)
    fixed = replace(opened.model, config=config)
    recipe = kind or _default_type(opened.model)
    notify(gguf_sizes.limit_notes(recipe, config))
    importance = None if imatrix is None else _importance(opened, imatrix, recipe)
    target = Target(
        gguf_writer.FORMAT.name,
        recipe.name,
        gguf_sizes.nbytes(recipe, config),
        lambda folder, source: gguf_writer.GgufWriter(
            folder, replace(source, model=fixed), recipe, split_bytes, importance
        ),
        {
            "type": recipe.name,
            "tensor_types": [f"{pattern.pattern}={name}" for pattern, name in recipe.overrides],
            **_context_entry(context),
            **_imatrix_entries(imatrix),
        },
    )
    return write_export(opened, target, output, overwrite, progress, judge)


def export_onnx(  # noqa: PLR0913 - options by name, each of them documented
    model: Model,
    output: Path,
    *,
    options: OnnxOptions | None = None,
    context: int | None = None,
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
    opened = open_source(model, revision)
    scheme = opened.model.scheme if isinstance(opened.model, PackedCheckpoint) else None
    config = _config(opened, context)
    fixed = replace(opened.model, config=config)
    onnx_sizes.check(scheme, config, options)
    target = Target(
        onnx_writer.FORMAT.name,
        onnx_writer.FORMAT.title,
        onnx_sizes.nbytes(config, scheme, options),
        lambda folder, source: onnx_writer.OnnxWriter(
            folder, replace(source, model=fixed), scheme, options
        ),
        {**options.settled(config, scheme).as_json(), **_context_entry(context)},
    )
    return write_export(opened, target, output, overwrite, progress, judge)


def export_packed(
    model: Model,
    output: Path,
    *,
    layout: str,
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
    opened = open_source(model, revision)
    if not isinstance(opened.model, PackedCheckpoint):
        raise SchemeError(
            f"{opened.name} is not quantized, so it has no codes for {layout}; choose that layout "
            "when you quantize it (--export)"
        )
    scheme = opened.model.scheme
    chosen.check(scheme, opened.config)
    planned = packed_tensors(opened.config, scheme, chosen.specify)
    target = Target(
        chosen.name,
        chosen.title,
        sum(tensor.nbytes for tensor in planned),
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


def _config(opened: OpenedModel[Exportable], context: int | None) -> Phi3Config:
    return opened.config if context is None else fixed_context(opened.config, context)


def _context_entry(context: int | None) -> dict[str, int]:
    return {} if context is None else {"context": context}


def _imatrix_entries(imatrix: Path | None) -> dict[str, str]:
    if imatrix is None:
        return {}
    return {"imatrix": imatrix.name, "imatrix_sha256": sha256(imatrix)}


def _importance(opened: OpenedModel[Exportable], imatrix: Path, recipe: FileType) -> Importance:
    if not isinstance(opened.model, Checkpoint):
        raise SchemeError(
            f"{opened.name} is quantized and keeps its codes, so an importance matrix changes "
            "nothing; use the checkpoint it was made from"
        )
    importance = read_importance(imatrix, recipe, opened.config)
    notify(importance.notes)
    return importance


def _default_type(model: Exportable) -> FileType:
    if isinstance(model, PackedCheckpoint):
        # Codes with zero points may in fact be symmetric, but the layout doesn't record that.
        return gguf_sizes.natural_type(model.scheme)
    return file_type(PLAIN_TYPE)
