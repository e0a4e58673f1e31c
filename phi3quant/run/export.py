"""Export of an existing model, plain or quantized, to another format."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from converters import open_weights
from converters.companions import check_companions
from converters.format import Source, TensorWriter
from converters.gguf import sizes as gguf_sizes
from converters.gguf import writer as gguf_writer
from converters.gguf.type_policy import FileType, file_type
from converters.onnx import sizes as onnx_sizes
from converters.onnx import writer as onnx_writer
from converters.onnx.options import OnnxOptions
from converters.packed.reader import PackedCheckpoint
from phi3quant.disk.ordered_writer import completed
from phi3quant.disk.output import (
    MANIFEST,
    check_not_inside,
    check_space,
)
from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.disk.workspace import check_output, open_workspace
from phi3quant.errors import CheckpointError, ResumeError
from phi3quant.model.architecture import BLOCK_TENSORS, EMBEDDING, HEAD, LINEARS, block_tensor_name
from phi3quant.progress import Progress, bars
from phi3quant.provenance import manifest
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.draft import Judge, draft_of, publish
from phi3quant.source.checkpoint import Checkpoint
from phi3quant.source.locate import Model, locate
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.tokenizer import load_tokenizer

_Exportable: TypeAlias = Checkpoint | PackedCheckpoint

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
    opened = _open(model, revision)
    recipe = kind or _default_type(opened.model)
    target = _Target(
        gguf_writer.FORMAT.name,
        recipe.name,
        gguf_sizes.nbytes(recipe, opened.config),
        lambda folder, source: gguf_writer.GgufWriter(folder, source, recipe, split_bytes),
        {
            "type": recipe.name,
            "tensor_types": [f"{pattern.pattern}={name}" for pattern, name in recipe.overrides],
        },
    )
    return _export(opened, target, output, overwrite, progress, judge)


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
    opened = _open(model, revision)
    scheme = opened.model.scheme if isinstance(opened.model, PackedCheckpoint) else None
    onnx_sizes.check(scheme, opened.config, options)
    target = _Target(
        onnx_writer.FORMAT.name,
        onnx_writer.FORMAT.title,
        onnx_sizes.nbytes(opened.config, scheme, options),
        lambda folder, source: onnx_writer.OnnxWriter(folder, source, scheme, options),
        options.settled(opened.config, scheme).as_json(),
    )
    return _export(opened, target, output, overwrite, progress, judge)


@dataclass(frozen=True)
class _Target:
    """Target of an export.

    Attributes:
        format: a key of converters.FORMATS.
        title: name of the target, for the progress.
        nbytes: size of the weights.
        open: creates a writer into a folder.
        recipe: choices for the manifest.
    """

    format: str
    title: str
    nbytes: int
    open: Callable[[Path, Source], TensorWriter]
    recipe: Mapping[str, Any]


def _open(model: Model, revision: str | None) -> OpenedModel[_Exportable]:
    located = locate(model, revision)
    opened = open_weights(located.path, located.adapters)
    if not isinstance(opened, Checkpoint | PackedCheckpoint):
        raise CheckpointError(
            f"{located.path} is {opened.format} already; use the model it was made from"
        )
    if isinstance(opened, PackedCheckpoint):
        opened.check_codes()
    manifest = read_json_if_there(located.folder / MANIFEST)
    return OpenedModel(located, opened, manifest, lambda: load_tokenizer(located.folder))


def _export(
    opened: OpenedModel[_Exportable],
    target: _Target,
    output: Path,
    overwrite: bool,  # noqa: FBT001 - passed on
    progress: Progress,
    judge: Judge | None,
) -> Artifacts:
    """Write a model block by block, and publish the result."""
    model, config = opened.model, opened.config
    check_output(output, overwrite=overwrite)
    check_not_inside(output, opened.folder)
    check_companions(opened.folder)
    check_space(output, target.nbytes)
    if judge is not None:
        judge.prepare(opened)
    weights = [path for path in model.files if path.suffix == ".safetensors"]
    files = manifest.source_files(opened.located, weights)
    stamps = manifest.stamps([*files, *manifest.adapter_files(opened.located)])
    with (
        open_workspace(output, overwrite=overwrite) as workspace,
        ThreadPoolExecutor(1) as aside,
    ):
        if workspace.has_blocks:
            if not overwrite:
                raise ResumeError(
                    f"{output} has an unfinished run; finish it with --resume, or drop it with "
                    "--overwrite"
                )
            workspace.drop_blocks()
        draft = draft_of(workspace, opened, [target.format])
        # Hashing reads the same files as the writer, and uses only one thread.
        described = aside.submit(manifest.describe_source, opened.located, files)
        with (
            completed(target.open(draft.folders[target.format], _renamed(opened))) as writer,
            progress(f"exporting ({target.title})", config.num_hidden_layers) as step,
        ):
            writer.embedding(model.store.load(EMBEDDING))
            for index in range(config.num_hidden_layers):
                writer.tensors(index, _tensors(model, index))
                step()
            head = None if config.tie_word_embeddings else model.store.load(HEAD)
            writer.final(model.final_norm(), head)
        manifest.check_unchanged(stamps)
        manifests = {target.format: _describe(target, described.result(), opened.manifest)}
        publish(workspace, draft, manifests, {target.format: writer.hashed}, judge)
    return Artifacts(opened.located, draft.places, None, [])


def _renamed(opened: OpenedModel[_Exportable]) -> Source:
    """The model, named after the checkpoint that it was quantized from, if recorded."""
    origin = opened.manifest.get("source")
    name = origin.get("name") if isinstance(origin, Mapping) else None
    return replace(opened, located=replace(opened.located, name=str(name or opened.name)))


def _describe(
    target: _Target, source: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    """Manifest of an export; ``before`` is the manifest of its source, or empty."""
    recipe = {"method": "export", "format": target.format, **target.recipe}
    # A quantized model keeps its history: recipe, calibration, errors, first source.
    if isinstance(before.get("recipe"), Mapping):
        recipe |= {"quantized_by": before["recipe"], "quantized_from": before.get("source")}
    return manifest.describe(
        target.format, source, recipe, before.get("calibration"), before.get("blocks") or []
    )


def _default_type(model: _Exportable) -> FileType:
    if isinstance(model, PackedCheckpoint):
        # Codes with zero points may in fact be symmetric, but the layout doesn't record that.
        return gguf_sizes.natural_type(model.scheme)
    return file_type(PLAIN_TYPE)


def _tensors(model: _Exportable, index: int) -> Mapping[str, torch.Tensor | QuantizedTensor]:
    """Stored tensors of a block: codes if it is quantized, otherwise floats of any type.

    Writers check that plain matrices are finite while they convert them.
    """
    block: dict[str, torch.Tensor | QuantizedTensor] = {}
    for key in BLOCK_TENSORS:
        if key not in LINEARS:
            block[key] = model.store.load_finite(block_tensor_name(index, key))
        elif isinstance(model, PackedCheckpoint):
            block[key] = model.quantized(index, key)
        else:
            block[key] = model.store.load(block_tensor_name(index, key))
    return block
