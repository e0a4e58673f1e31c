"""Table of formats, and functions that open a model of any of them."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from converters.format import Format
from converters.gguf import writer as gguf_writer
from converters.gguf.parts import gguf_parts
from converters.gguf.reader import GgufCheckpoint, is_gguf, open_gguf
from converters.gguf.tokenizer import build_tokenizer
from converters.onnx import writer as onnx_writer
from converters.onnx.file import is_onnx
from converters.onnx.parts import onnx_parts
from converters.onnx.reader import OnnxModel, at_levels, open_onnx
from converters.packed import awq_gemm, compressed_tensors, gptq, mlx
from converters.packed.layout import PackedLayout
from converters.packed.opening import open_packed
from converters.packed.parts import packed_parts
from converters.packed.reader import PackedCheckpoint
from converters.packed.writer import packed_format
from converters.parts import Parts, safetensors_parts
from phi3quant.errors import AdapterError, CheckpointError, SchemeError
from phi3quant.model.architecture import LINEARS, block_tensor_name
from phi3quant.model.config import Phi3Config, shown
from phi3quant.model.config_file import read_config
from phi3quant.notices import notify
from phi3quant.source.adapter_reference import AdapterReference
from phi3quant.source.checkpoint import Checkpoint, checkpoint_of
from phi3quant.source.locate import Located
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredModel, StoredWeights
from phi3quant.source.tensor_folder import FLOAT_DTYPES, TensorFolder
from phi3quant.source.tensor_names import text_model
from phi3quant.source.tokenizer import Tokenizer, load_tokenizer
from phi3quant.source.weight_files import open_tensors

LAYOUTS: Mapping[str, PackedLayout] = {
    layout.name: layout
    for layout in (compressed_tensors.LAYOUT, awq_gemm.LAYOUT, gptq.LAYOUT, mlx.LAYOUT)
}
"""Layouts of packed checkpoints by name."""

FORMATS: Mapping[str, Format] = {
    entry.name: entry
    for entry in (*map(packed_format, LAYOUTS.values()), gguf_writer.FORMAT, onnx_writer.FORMAT)
}
"""Formats by their name on the command line; the first is the default."""


def open_model(
    path: Path, adapters: tuple[AdapterReference, ...] = ()
) -> StoredWeights | OnnxModel:
    """Open a model of any kind that can be read: plain, packed in one of LAYOUTS, GGUF or ONNX.

    Args:
        path: a folder, or a .gguf file.
        adapters: adapters to merge into a plain checkpoint.

    Raises:
        ConfigError: config.json is missing or not Phi-3.
        CheckpointError: weights are missing, truncated, mis-shaped or in an unknown quantization.
        SchemeError: the quantization has a known layout, but in a form that can't be read.
        AdapterError: an adapter doesn't fit, or the model is not a plain checkpoint.
    """
    if is_onnx(path) and not adapters:
        return open_onnx(path)
    return open_weights(path, adapters)


def open_weights(path: Path, adapters: tuple[AdapterReference, ...] = ()) -> StoredWeights:
    """Open a model whose weights can be read, as open_model does.

    Its notes go to phi3quant.notices.

    Raises:
        CheckpointError: also if it is an ONNX model, whose weights only a runtime can read.
    """
    opened = _opened(path, adapters)
    if adapters and not isinstance(opened, Checkpoint):
        raise AdapterError(
            f"{path} is a {opened.format} model; adapters can be merged only into the checkpoint "
            "in full precision"
        )
    notify(f"{path}: {note}" for note in opened.notes)
    return opened


def _opened(path: Path, adapters: tuple[AdapterReference, ...]) -> StoredWeights:
    if is_onnx(path):
        raise CheckpointError(f"{path} is an ONNX model already; use the model it was made from")
    if is_gguf(path):
        return open_gguf(path)
    config = read_config(path)
    described = _description(config, path)
    text = text_model(open_tensors(path), config)
    if described is None:
        return checkpoint_of(text, config, adapters)
    if _all_plain(text.store, config):
        _refuse_transforms(described, path)
        opened = checkpoint_of(text, config, adapters)
        return replace(opened, notes=(*opened.notes, _left_over(described, opened)))
    for layout in LAYOUTS.values():
        try:
            stated = layout.recognise(described)
            if stated is not None:
                return open_packed(text.store, config, stated, layout)
        except SchemeError as error:
            raise SchemeError(f"{path}: {error}") from None
    raise CheckpointError(
        f"{path} is quantized by {_quantizer(described)}, which can't be read; supported are "
        f"{', '.join(LAYOUTS)}. {_ADVICE.get(str(described.get('quant_method')), _ORIGINAL)}"
    )


def _description(config: Phi3Config, path: Path) -> Mapping[str, Any] | None:
    """Description of quantized weights in config.json; mlx-lm writes it under two keys.

    Raises:
        CheckpointError: it isn't an object, or the keys contradict each other.
    """
    descriptions = {
        key: config.raw[key] for key in mlx.LAYOUT.config_keys if config.raw.get(key) is not None
    }
    for key, described in descriptions.items():
        if not isinstance(described, Mapping):
            raise CheckpointError(f"{path}/config.json: {key} is not an object")
    values: list[Mapping[str, Any]] = list(descriptions.values())
    if any(described != values[0] for described in values):
        raise CheckpointError(
            f"{path}/config.json has {' and '.join(descriptions)}, which differ; remove the one "
            "that doesn't describe the weights"
        )
    return values[0] if values else None


_ORIGINAL = "Use the checkpoint that it was made from"
_ADVICE: Mapping[str, str] = {
    "fp8": (
        "Use a BF16 checkpoint, or load this one with transformers "
        "(FineGrainedFP8Config(dequantize=True)) and save it as BF16"
    ),
    "bitsandbytes": (
        "Use the checkpoint that it was made from, or call dequantize() on the model in "
        "transformers and save it as BF16"
    ),
}
"""Advice on how to get plain weights, by ``quant_method``."""


def _quantizer(described: Mapping[str, Any]) -> str:
    method, packing = described.get("quant_method"), described.get("packing_format")
    if method is not None and packing is not None:
        return f"{shown(method)} in the layout {shown(packing)}"
    return "an unknown method (no quant_method)" if method is None else shown(method)


def _all_plain(store: TensorFolder, config: Phi3Config) -> bool:
    """Whether every matrix of the blocks is stored as floats under its plain name."""
    stored = [
        store.tensors.get(block_tensor_name(index, key))
        for index in range(config.num_hidden_layers)
        for key in LINEARS
    ]
    return all(tensor is not None and tensor.dtype in FLOAT_DTYPES for tensor in stored)


def _refuse_transforms(described: Mapping[str, Any], path: Path) -> None:
    if described.get("transform_config") not in (None, {}, {"config_groups": {}}):
        raise CheckpointError(
            f"{path}: the quantization_config has a transform_config, which changes the model and "
            "isn't supported; use the original checkpoint"
        )


def _left_over(described: Mapping[str, Any], opened: StoredWeights) -> str:
    """Note on the quantization_config of a plain checkpoint."""
    method = described.get("quant_method")
    origin = "" if method is None else f" of {shown(method)}"
    return (
        f"config.json has a quantization_config{origin}, but all weights are plain "
        f"{opened.format.removeprefix('safetensors ')}; the quantization_config is ignored"
    )


def parts_of(model: StoredModel) -> Parts:
    """Stored parts of a model from open_model.

    Raises:
        CheckpointError: an ONNX graph computes something else than Phi-3, or tensors contradict the
            configuration.
    """
    if isinstance(model, PackedCheckpoint):
        return packed_parts(model)
    if isinstance(model, GgufCheckpoint):
        return gguf_parts(model)
    if isinstance(model, OnnxModel):
        return onnx_parts(model)
    assert isinstance(model, Checkpoint)
    return safetensors_parts(model, None, model.stored_linear)


def as_run(
    name: str, model: StoredWeights | OnnxModel
) -> list[tuple[str, StoredWeights | OnnxModel]]:
    """Ways to score a model, each with a name.

    ONNX models that round activations are scored both with and without that rounding; all other
    models have one way.

    Args:
        name: name of the model.
        model: model from open_model.
    """
    levels = at_levels(model) if isinstance(model, OnnxModel) else {}
    if len(levels) < 2:
        return [(name, model)]
    return [(f"{name} (level {level})", way) for level, way in levels.items()]


def open_located(located: Located) -> OpenedModel[StoredWeights | OnnxModel]:
    """Open a model of any format for reading; its manifest is left out.

    Raises:
        Phi3QuantError: as open_model.
    """
    model = open_model(located.path, located.adapters)
    return OpenedModel(located, model, {}, partial(tokenizer_of, model, located.path))


def tokenizer_of(model: StoredModel, path: Path) -> Tokenizer:
    """Tokenizer of an opened model.

    Args:
        model: model from open_model.
        path: folder or file of the model.

    Raises:
        TokenizerError: the model has no readable tokenizer.
        MissingExtraError: as load_tokenizer.
    """
    if isinstance(model, GgufCheckpoint):
        return build_tokenizer(model.model.fields, str(path))
    return load_tokenizer(path)


def open_tokenizer(path: Path) -> Tokenizer:
    """Tokenizer of a model of any kind.

    Raises:
        TokenizerError: the model has no readable tokenizer.
        CheckpointError: a GGUF file's header can't be read.
        MissingExtraError: as load_tokenizer.
    """
    if is_gguf(path):
        return build_tokenizer(open_gguf(path).model.fields, str(path))
    return load_tokenizer(path)
