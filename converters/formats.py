"""The table of formats, and what opens a model of any of them."""

from collections.abc import Mapping
from pathlib import Path

from converters import to_awq_gemm, to_compressed_tensors, to_gguf, to_onnx
from converters.from_gguf import is_gguf, open_gguf
from converters.from_onnx import OnnxModel, at_levels, open_onnx
from converters.gguf_tokenizer import build_tokenizer
from converters.layout import PackedLayout
from converters.onnx_file import is_onnx
from converters.packed import open_packed, packed_format
from converters.writer import Format
from phi3quant.checkpoint import StoredWeights, open_checkpoint, open_tensors
from phi3quant.config import read_config
from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.tokenizer import Tokenizer, load_tokenizer

LAYOUTS: Mapping[str, PackedLayout] = {
    layout.name: layout for layout in (to_compressed_tensors.LAYOUT, to_awq_gemm.LAYOUT)
}
"""Layouts of packed checkpoints by their name."""

FORMATS: Mapping[str, Format] = {
    entry.name: entry
    for entry in (*map(packed_format, LAYOUTS.values()), to_gguf.FORMAT, to_onnx.FORMAT)
}
"""All formats by their name on the command line; the first is the default."""


def open_model(path: Path) -> StoredWeights | OnnxModel:
    """Open a model of any kind that can be read: plain, packed in one of LAYOUTS, GGUF or ONNX.

    Args:
        path: a folder, or a .gguf file.

    Raises:
        ConfigError: config.json is missing or not Phi-3.
        CheckpointError: weights are missing, truncated, mis-shaped, or quantized by other means.
        SchemeError: the quantization is of a known layout in a form that can't be read.
    """
    if is_onnx(path):
        return open_onnx(path)
    return open_weights(path)


def open_weights(path: Path) -> StoredWeights:
    """Open a model whose weights can be had, as open_model does.

    Raises:
        CheckpointError: also if it is an ONNX model, whose weights only a runtime reads.
    """
    if is_onnx(path):
        raise CheckpointError(f"{path} is an ONNX model already; give what it was made from")
    if is_gguf(path):
        return open_gguf(path)
    config = read_config(path)
    described = config.raw.get("quantization_config")
    if described is None:
        return open_checkpoint(path)
    if not isinstance(described, Mapping):
        raise CheckpointError(f"{path}/config.json: quantization_config is not an object")
    for layout in LAYOUTS.values():
        try:
            scheme = layout.recognise(described)
            if scheme is not None:
                return open_packed(open_tensors(path), config, scheme, layout)
        except SchemeError as error:
            raise SchemeError(f"{path}: {error}") from None
    raise CheckpointError(
        f"{path} is quantized by {described.get('quant_method')!r}, which can't be read; "
        f"known are {', '.join(LAYOUTS)}"
    )


def as_run(
    name: str, model: StoredWeights | OnnxModel
) -> list[tuple[str, StoredWeights | OnnxModel]]:
    """The ways in which a model is scored, each with a name.

    There is one, but for ONNX models that round activations: those are also scored without that.

    Args:
        name: of the model.
        model: from open_model.
    """
    levels = at_levels(model) if isinstance(model, OnnxModel) else {}
    if len(levels) < 2:
        return [(name, model)]
    return [(f"{name} (level {level})", way) for level, way in levels.items()]


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model of any kind.

    Raises:
        TokenizerError: there is none that can be read.
        CheckpointError: a GGUF file's header can't be read.
        MissingExtraError: as load_tokenizer.
    """
    if is_gguf(path):
        return build_tokenizer(open_gguf(path).model.fields, str(path))
    return load_tokenizer(path)
