"""Write a model that exists, plain or quantized, in another format."""

from collections.abc import Mapping
from pathlib import Path

import torch

from converters import open_model, to_gguf
from converters.from_gguf import GgufCheckpoint
from converters.gguf_policy import FileType, file_type
from converters.packed import PackedCheckpoint
from converters.writer import Source
from phi3quant import manifest
from phi3quant.checkpoint import StoredWeights, read_json_if_there
from phi3quant.errors import CheckpointError
from phi3quant.hub import Located, locate
from phi3quant.layout import BLOCK_TENSORS, LINEARS
from phi3quant.output import (
    MANIFEST,
    atomic_folder,
    check_not_inside,
    check_output_folder,
    check_space,
)
from phi3quant.pipeline import Quantized
from phi3quant.progress import Progress, silent
from phi3quant.qtensor import QuantizedTensor

PLAIN_TYPE = "F16"
"""What a checkpoint that is not quantized becomes by default."""


def export_gguf(
    model: str | Path | None,
    output: Path,
    *,
    kind: FileType | None = None,
    split_bytes: int | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Quantized:
    """Write a model as GGUF, one tensor in memory at a time.

    Args:
        model: a plain or packed folder, a hub id, or None for the bundled phi3-tiny.
        output: the folder to make, with the file (or its parts) and a manifest.
        kind: from converters.gguf_policy.file_type. By default the one that holds the model's codes
            as they are, and F16 for a plain checkpoint.
        split_bytes: start another part before a file's tensors grow past this.
        revision: of a hub id.
        overwrite: replace ``output`` if phi3quant made it.
        progress: is told of the blocks.

    Raises:
        Phi3QuantError: see phi3quant.errors; nothing is left at ``output``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = export_gguf("phi3-tiny", Path(folder) / "out", kind=file_type("q8_0"))
        ...     [path.name for path in made.folders["gguf"].glob("*.gguf")]
        ['phi3-tiny-Q8_0.gguf']
    """
    located = locate(model, revision)
    opened = open_model(located.path)
    if isinstance(opened, GgufCheckpoint):
        raise CheckpointError(f"{located.path} is a GGUF file already; give what it was made from")
    recipe = kind or _default_type(opened)
    check_output_folder(output, overwrite=overwrite)
    check_not_inside(output, located.folder)
    check_space(output, to_gguf.nbytes(recipe, opened.config))
    made_from = read_json_if_there(located.folder / MANIFEST).get("source")
    original = made_from.get("name") if isinstance(made_from, Mapping) else None
    source = Source(located.folder, str(original or located.name), opened.config)
    with atomic_folder(output, overwrite=overwrite) as partial:
        with (
            to_gguf.GgufWriter(partial, source, recipe, split_bytes) as writer,
            progress(f"exporting ({recipe.name})", opened.config.num_hidden_layers) as step,
        ):
            writer.embedding(opened.embedding())
            for index in range(opened.config.num_hidden_layers):
                writer.tensors(index, _tensors(opened, index))
                step()
            tied = opened.config.tie_word_embeddings
            writer.final(opened.final_norm(), None if tied else opened.head())
        _write_manifest(partial, located, opened, recipe)
    return Quantized(located, {to_gguf.FORMAT.name: output}, None, [])


def _default_type(model: StoredWeights) -> FileType:
    if isinstance(model, PackedCheckpoint):
        # What a zero-point layout holds may be symmetric in truth, but its bits don't say so.
        return to_gguf.natural_type(model.scheme)
    return file_type(PLAIN_TYPE)


def _tensors(model: StoredWeights, index: int) -> Mapping[str, torch.Tensor | QuantizedTensor]:
    """A block's tensors, its matrices as codes where there are any."""
    if not isinstance(model, PackedCheckpoint):
        return model.block(index)
    return {
        key: model.quantized(index, key) if key in LINEARS else model.norm(index, key)
        for key in BLOCK_TENSORS
    }


def _write_manifest(folder: Path, located: Located, model: StoredWeights, kind: FileType) -> None:
    files = [path for path in model.files if path.suffix == ".safetensors"]
    manifest.write_manifest(
        folder,
        manifest.describe_source(located, files),
        {
            "method": "export",
            "format": to_gguf.FORMAT.name,
            "type": kind.name,
            "tensor_types": [f"{pattern.pattern}={name}" for pattern, name in kind.overrides],
        },
        None,
        [],
    )
