"""Run of an export: a model read block by block, written in another format and published."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from converters import open_weights
from converters.companions import check_companions
from converters.format import Source, TensorWriter
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
from phi3quant.progress import Progress
from phi3quant.provenance import manifest
from phi3quant.quant.tensor import Quantized
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.draft import Judge, draft_of, publish
from phi3quant.source.checkpoint import Checkpoint
from phi3quant.source.locate import Model, locate
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.tokenizer import load_tokenizer

Exportable: TypeAlias = Checkpoint | PackedCheckpoint
"""Models that can be exported."""


@dataclass(frozen=True)
class Target:
    """Target of an export.

    Attributes:
        format: name of the format.
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


def open_source(
    model: Model, revision: str | None, *, as_codes: bool = True, real_offsets: bool = False
) -> OpenedModel[Exportable]:
    """Open a model to export.

    Args:
        model: see locate.
        revision: revision of a hub id.
        as_codes: whether a packed model is written as codes; otherwise it is dequantized.
        real_offsets: whether the target can store offsets in place of zero points.

    Raises:
        Phi3QuantError: it can't be read, or its format is written only from other formats.
    """
    located = locate(model, revision)
    opened = open_weights(located.path, located.adapters)
    if not isinstance(opened, Checkpoint | PackedCheckpoint):
        raise CheckpointError(
            f"{located.path} is {opened.format} already; use the model it was made from"
        )
    if as_codes and isinstance(opened, PackedCheckpoint):
        opened = opened.with_codes(real_offsets=real_offsets)
    manifest = read_json_if_there(located.folder / MANIFEST)
    return OpenedModel(located, opened, manifest, lambda: load_tokenizer(located.folder))


def write_export(
    opened: OpenedModel[Exportable],
    target: Target,
    output: Path,
    overwrite: bool,  # noqa: FBT001 - passed on
    progress: Progress,
    judge: Judge | None,
) -> Artifacts:
    """Write a model block by block, and publish the result.

    Raises:
        Phi3QuantError: see phi3quant.errors; ``output`` is as it was before the call.
    """
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
            writer.embedding(model.stored(EMBEDDING))
            for index in range(config.num_hidden_layers):
                writer.tensors(index, _tensors(model, index))
                step()
            head = None if config.tie_word_embeddings else model.stored(HEAD)
            writer.final(model.final_norm(), head)
        manifest.check_unchanged(stamps)
        manifests = {target.format: _describe(target, described.result(), opened.manifest)}
        publish(workspace, draft, manifests, {target.format: writer.hashed}, judge)
    return Artifacts(opened.located, draft.places, None, [])


def _renamed(opened: OpenedModel[Exportable]) -> Source:
    """The model, named after the checkpoint that it was quantized from, if recorded."""
    origin = opened.manifest.get("source")
    name = origin.get("name") if isinstance(origin, Mapping) else None
    return replace(opened, located=replace(opened.located, name=str(name or opened.name)))


def _describe(
    target: Target, source: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    """Manifest of an export; ``before`` is the manifest of its source, or empty."""
    recipe = {"method": "export", "format": target.format, **target.recipe}
    # A quantized model keeps its history: recipe, calibration, errors, first source.
    if isinstance(before.get("recipe"), Mapping):
        recipe |= {"quantized_by": before["recipe"], "quantized_from": before.get("source")}
    return manifest.describe(
        target.format, source, recipe, before.get("calibration"), before.get("blocks") or []
    )


def _tensors(model: Exportable, index: int) -> Mapping[str, torch.Tensor | Quantized]:
    """Stored tensors of a block: codes where it has them, otherwise floats of any type.

    Writers check that plain matrices are finite while they convert them.
    """
    block: dict[str, torch.Tensor | Quantized] = {}
    for key in BLOCK_TENSORS:
        if key not in LINEARS:
            block[key] = model.store.load_finite(block_tensor_name(index, key))
        elif isinstance(model, PackedCheckpoint):
            block[key] = model.matrix(index, key)
        else:
            block[key] = model.store.load(block_tensor_name(index, key))
    return block
