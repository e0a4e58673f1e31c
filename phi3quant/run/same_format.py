"""Targets that write a quantized model in the format that it has."""

import re
from collections.abc import Mapping
from dataclasses import replace

from converters.gguf import sizes as gguf_sizes
from converters.gguf.names import block_name, outer_name
from converters.gguf.parts import with_stored_ends
from converters.gguf.reader import GgufCheckpoint
from converters.gguf.type_policy import FILE_TYPES, MIXED, FileType, file_type
from converters.gguf.writer import FORMAT, GgufWriter
from converters.packed.parts import with_packed_ends
from converters.packed.reader import PackedCheckpoint
from converters.packed.writer import PackedWriter, packed_bytes
from phi3quant.errors import SchemeError
from phi3quant.model.architecture import EMBEDDING, HEAD, LINEARS, block_tensor_name
from phi3quant.run.export_run import Target
from phi3quant.run.export_source import ExportSource


def as_stored(source: ExportSource) -> ExportSource:
    """The model with all parts as they are stored, so that its own format keeps them."""
    model = source.opened.model
    if isinstance(model, GgufCheckpoint):
        return replace(source, parts=with_stored_ends(model, source.parts))
    if isinstance(model, PackedCheckpoint):
        return replace(source, parts=with_packed_ends(model, source.parts))
    return source


def same_format(source: ExportSource, recipe: Mapping[str, object], method: str) -> Target:
    """Target with the format, layout and types of a quantized model.

    Args:
        source: the model.
        recipe: choices for the manifest.
        method: name of the command, for the manifest.

    Raises:
        SchemeError: the model is not quantized, or is in a format of which this isn't possible.
    """
    model, config = source.opened.model, source.config
    if not source.parts.quantized:
        raise SchemeError(f"{source.opened.name} is not quantized")
    if isinstance(model, GgufCheckpoint):
        kind = _types(model)
        return Target(
            FORMAT.name,
            FORMAT.title,
            gguf_sizes.nbytes(kind, config),
            lambda folder, complete: GgufWriter(folder, complete, kind),
            recipe,
            method,
        )
    schemes = source.parts.schemes
    if not isinstance(model, PackedCheckpoint) or schemes is None or source.parts.offsets:
        raise SchemeError(
            f"{source.opened.name} ({model.format}) can't be written with other scales; use the "
            "compressed-tensors folder or GGUF file with the same codes, and export it again"
        )
    outer = model.outer
    layout = replace(model.layout, outer=lambda _config, _scheme: {**outer})
    return Target(
        layout.name,
        layout.title,
        packed_bytes(config, schemes, layout),
        lambda folder, complete: PackedWriter(folder, complete, schemes, layout),
        recipe,
        method,
    )


def _types(model: GgufCheckpoint) -> FileType:
    """Recipe that gives a file's types: the one that it names, or one for single matrices.

    Raises:
        SchemeError: parts of a fused matrix have several types.
    """
    tensors, types = model.model.tensors, {}
    for index in range(model.config.num_hidden_layers):
        for key in LINEARS:
            kinds = {tensors[name].type.name for name in model.tensor_names(index, key)}
            if len(kinds) > 1:
                raise SchemeError(
                    f"{model.path} stores parts of {block_tensor_name(index, key)} as "
                    f"{' and '.join(sorted(kinds))}, and one matrix has to have one type; use "
                    "another file of the model"
                )
            types[block_name(index, key)] = kinds.pop()
    for end in (EMBEDDING, HEAD):
        if outer_name(end) in tensors:
            types[outer_name(end)] = tensors[outer_name(end)].type.name
    number = model.model.fields.get("general.file_type")
    for kind in FILE_TYPES.values():
        if kind.number == number:
            planned = gguf_sizes.tensor_types(kind, model.config)
            if all(planned[name][0].name == types[name] for name in types):
                return kind
    overrides = [f"^{re.escape(name)}$={entry}" for name, entry in types.items()]
    return file_type(MIXED.name, overrides)
