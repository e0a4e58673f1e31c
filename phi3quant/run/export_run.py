"""Run of an export: a model read block by block, written in another format and published."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.format import Source, TensorWriter
from converters.onnx.reader import OnnxModel
from phi3quant.disk.ordered_writer import completed
from phi3quant.disk.output import check_space
from phi3quant.disk.workspace import Workspace, check_output, open_workspace
from phi3quant.errors import ResumeError
from phi3quant.progress import Progress
from phi3quant.provenance import manifest
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.draft import Judge, draft_of, publish
from phi3quant.run.export_source import ExportSource
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredWeights


@dataclass(frozen=True)
class Target:
    """Target of an export.

    Attributes:
        format: name of the format.
        title: name of the target, for the progress.
        nbytes: size of the weights.
        open: creates a writer into a folder.
        recipe: choices for the manifest.
        method: name of the command, for the manifest.
    """

    format: str
    title: str
    nbytes: int
    open: Callable[[Path, Source], TensorWriter]
    recipe: Mapping[str, Any]
    method: str = "export"


def write_export(
    source: ExportSource,
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
    stamps = check_export(source, target, output, judge, overwrite=overwrite)
    with open_workspace(output, overwrite=overwrite) as workspace:
        if workspace.has_blocks:
            if not overwrite:
                raise ResumeError(
                    f"{output} has an unfinished run; finish it with --resume, or drop it with "
                    "--overwrite"
                )
            workspace.drop_blocks()
        return publish_export(source, target, workspace, progress, judge, stamps)


def check_export(
    source: ExportSource, target: Target, output: Path, judge: Judge | None, *, overwrite: bool
) -> Mapping[Path, tuple[int, int]]:
    """Check what can be checked before an export; returns stamps of the source's files.

    Raises:
        Phi3QuantError: see phi3quant.errors.
    """
    check_output(output, overwrite=overwrite)
    source.check_output(output)
    check_space(output, target.nbytes)
    if judge is not None:
        judge.prepare(source.opened)
    return manifest.stamps([*source.files, *manifest.adapter_files(source.opened.located)])


def publish_export(
    source: ExportSource,
    target: Target,
    workspace: Workspace,
    progress: Progress,
    judge: Judge | None,
    stamps: Mapping[Path, tuple[int, int]],
    original: OpenedModel[StoredWeights | OnnxModel] | None = None,
) -> Artifacts:
    """Write a model into a workspace block by block, and publish the result.

    Args:
        source: model to write.
        target: its format.
        workspace: workspace of the output.
        progress: display of the blocks.
        judge: verification of the result; None to skip it.
        stamps: result of ``check_export``.
        original: model that the result is scored against; None for the source.

    Raises:
        Phi3QuantError: see phi3quant.errors; the output is as it was before the call.
    """
    opened, parts = source.opened, source.parts
    config = opened.config
    with ThreadPoolExecutor(1) as aside:
        draft = draft_of(workspace, original or opened, [target.format])
        # Hashing reads the same files as the writer, and uses only one thread.
        described = aside.submit(manifest.describe_source, opened.located, source.files)
        with (
            source.with_files() as complete,
            completed(target.open(draft.folders[target.format], complete)) as writer,
            progress(f"exporting ({target.title})", config.num_hidden_layers) as step,
        ):
            writer.embedding(parts.embedding())
            for index in range(config.num_hidden_layers):
                writer.tensors(index, parts.block(index))
                step()
            head = None if config.tie_word_embeddings else parts.head()
            writer.final(parts.final_norm(), head)
        manifest.check_unchanged(stamps)
        manifests = {target.format: _describe(target, described.result(), opened.manifest)}
        publish(workspace, draft, manifests, {target.format: writer.hashed}, judge)
    return Artifacts(opened.located, draft.places, None, [])


def _describe(
    target: Target, source: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    """Manifest of an export; ``before`` is the manifest of its source, or empty."""
    recipe = {"method": target.method, "format": target.format, **target.recipe}
    # A quantized model keeps its history: recipe, calibration, errors, first source.
    if isinstance(before.get("recipe"), Mapping):
        recipe |= {"quantized_by": before["recipe"], "quantized_from": before.get("source")}
    return manifest.describe(
        target.format, source, recipe, before.get("calibration"), before.get("blocks") or []
    )
