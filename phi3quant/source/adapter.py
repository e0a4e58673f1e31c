"""Adapters (LoRA, rsLoRA, DoRA, whole modules) that are merged into a checkpoint while it is read.

The formats are those of PEFT's files, and of the adapters inside Phi-4-multimodal.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from phi3quant.disk.untrusted_json import read_json
from phi3quant.errors import AdapterError
from phi3quant.model.architecture import (
    BLOCK_TENSORS,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    SPLITS,
    Shape,
    block_prefix,
    block_tensor_name,
)
from phi3quant.model.config import Phi3Config
from phi3quant.model.config_file import ADAPTER_CONFIG
from phi3quant.model.dialects import DIALECTS
from phi3quant.source.adapter_reference import ADAPTER_WEIGHTS, AdapterReference
from phi3quant.source.adapter_settings import AdapterSettings, adapter_settings
from phi3quant.source.low_rank import LowRank, Replacement
from phi3quant.source.tensor_folder import FLOAT_DTYPES, TensorFolder, Update
from phi3quant.source.tensor_names import WRAPPERS, TextModel
from phi3quant.source.weight_files import read_header

_WRAPPED = re.compile(rf"^({'|'.join(map(re.escape, WRAPPERS))})+")
_PARTS = re.compile(
    r"(?P<module>.+?)\."
    r"(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector"
    r"|modules_to_save|base_layer)(\.(?!weight$)\w+)?(\.weight)?"
)
_LEFT, _RIGHT, _NORMS, _WHOLE = "lora_B", "lora_A", "lora_magnitude_vector", "modules_to_save"
_MAX_SCALING = torch.finfo(torch.float32).max
_BASE = "base_layer"
"""Embedding or head under an adapter, which PEFT saves if the vocabulary may have grown."""


@dataclass(frozen=True)
class _Target:
    """Rows of a tensor of the model that belong to a module.

    Attributes:
        tensor: name of the tensor.
        rows: the module's rows.
        shape: shape of these rows.
    """

    tensor: str
    rows: slice
    shape: Shape


def merge_adapters(
    text: TextModel, config: Phi3Config, references: tuple[AdapterReference, ...]
) -> TensorFolder:
    """Tensors of a checkpoint that include the changes of adapters.

    Nothing is read but headers; the changes are computed when a tensor is loaded.

    Args:
        text: plain checkpoint.
        config: its configuration.
        references: adapters in the order in which they are merged.

    Raises:
        AdapterError: an adapter is missing, of another kind or doesn't fit the model.
        CheckpointError: a file of an adapter can't be read.
    """
    updates: dict[str, list[Update]] = {}
    for reference in references:
        store, settings = _opened(reference, text, config)
        for name, update in _updates(store, settings, config, reference.weight):
            updates.setdefault(name, []).append(update)
    return replace(text.store, updates=updates)


def adapted_config(config: Phi3Config, references: tuple[AdapterReference, ...]) -> Phi3Config:
    """Configuration of a model whose weights needn't exist, after merging adapters.

    Merging changes no shapes, but a tied model is untied if its embedding or head is changed.

    Raises:
        AdapterError: as merge_adapters.
        CheckpointError: as merge_adapters.
    """
    for reference in references:
        if reference.folder is None:
            if reference.name not in DIALECTS[config.stored_type].adapters:
                raise AdapterError(f"there is no folder '{reference.name}'")
            continue
        store, settings = _open_folder(reference.folder)
        changed = {name for name, _ in _updates(store, settings, config, reference.weight)}
        if {EMBEDDING, HEAD} & changed:
            config = config.untied()
    return config


def _opened(
    reference: AdapterReference, text: TextModel, config: Phi3Config
) -> tuple[TensorFolder, AdapterSettings]:
    if reference.folder is None:
        if reference.name not in text.adapters:
            inner = f", only {', '.join(text.adapters)}" if text.adapters else ""
            raise AdapterError(
                f"there is no folder '{reference.name}', and {text.store.folder} contains no "
                f"adapter of that name{inner}"
            )
        path = text.store.folder / "config.json"
        key = DIALECTS[config.stored_type].adapters[reference.name]
        raw = read_json(path).get(key)
        if not isinstance(raw, Mapping):
            raise AdapterError(f"{path} has no section {key} for the adapter {reference.name}")
        kept = {name: raw[name] for name in ("r", "lora_alpha") if name in raw}
        return text.adapters[reference.name], adapter_settings(kept, f"{path}: {key}")
    return _open_folder(reference.folder)


def _open_folder(folder: Path) -> tuple[TensorFolder, AdapterSettings]:
    path, weights = folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise AdapterError(f"{folder} has no {ADAPTER_CONFIG}, so it is not an adapter")
    if not weights.is_file():
        pickle = (folder / "adapter_model.bin").is_file()
        raise AdapterError(
            f"{folder} has no {ADAPTER_WEIGHTS}"
            + ("; adapter_model.bin can run code: load and save it with PEFT" if pickle else "")
        )
    settings = adapter_settings(read_json(path, raises=AdapterError), str(path))
    return TensorFolder(folder, (weights,), read_header(weights)), settings


def _updates(
    store: TensorFolder, settings: AdapterSettings, config: Phi3Config, weight: float
) -> Iterator[tuple[str, Update]]:
    """Changes of an adapter, each with the name of the tensor that it changes."""
    targets, modules = _targets(config), _by_module(store)
    if not modules:
        raise AdapterError(f"{store.folder} has no tensors, so it is not an adapter")
    for module, parts in modules.items():
        target = targets.get(module) or targets.get(f"model.{module}")
        if target is None:
            raise AdapterError(
                f"the adapter {store.folder} changes {module}, which is not part of a Phi-3 model "
                f"of {config.num_hidden_layers} layers"
            )
        if settings.ties_head and target.tensor in (EMBEDDING, HEAD):
            raise AdapterError(
                f"the adapter {store.folder} has ensure_weight_tying and changes {module}, which "
                "isn't supported; merge it with PEFT's merge_and_unload"
            )
        if _BASE in parts:
            base = parts.pop(_BASE)
            _check(store, base, target.shape)
            yield target.tensor, Replacement(target.rows, partial(_read, store, base))
        yield target.tensor, _update(store, settings, module, parts, target, weight)


def _by_module(store: TensorFolder) -> dict[str, dict[str, str]]:
    """Names of an adapter's tensors, by module and part."""
    modules: dict[str, dict[str, str]] = {}
    for name in store.tensors:
        plain = _WRAPPED.sub("", name)
        match = _PARTS.fullmatch(plain)
        if match:
            module, part = match["module"], match["part"].replace("embedding_", "")
        else:
            module, part = plain.removesuffix(".weight"), _WHOLE
            if module == plain:
                raise AdapterError(
                    f"the adapter {store.folder} has the tensor {name}, which can't be merged here;"
                    " merge it with PEFT's merge_and_unload"
                )
        parts = modules.setdefault(module, {})
        if part in parts:
            raise AdapterError(f"the adapter {store.folder} has {parts[part]} twice, as {name}")
        parts[part] = name
    return modules


def _update(
    store: TensorFolder,
    settings: AdapterSettings,
    module: str,
    parts: Mapping[str, str],
    target: _Target,
    weight: float,
) -> Update:
    """Change of one module."""
    if set(parts) == {_WHOLE}:
        _check(store, parts[_WHOLE], target.shape)
        if weight != 1:
            raise AdapterError(
                f"the adapter {store.folder} replaces {module} as a whole, so its weight can't be "
                f"{weight:g}; use it without a weight"
            )
        return Replacement(target.rows, partial(_read, store, parts[_WHOLE]))
    expected = {_LEFT, _RIGHT, *([_NORMS] if settings.dora else [])}
    if set(parts) != expected or len(target.shape) == 1:
        raise AdapterError(
            f"the adapter {store.folder} has {', '.join(sorted(parts))} for {module}; expected are "
            f"{', '.join(sorted(expected))} for a matrix"
        )
    height, width = target.shape
    rank = settings.rank_of(module)
    turned = "lora_embedding" in parts[_LEFT]
    if turned:
        # An embedding's matrices are those of its transpose: (B A)^T = A^T B^T.
        if settings.dora:
            raise AdapterError(
                f"the adapter {store.folder} has DoRA for {module}; only LoRA can be"
            )
        shapes, left, right = {_LEFT: (width, rank), _RIGHT: (rank, height)}, _RIGHT, _LEFT
    else:
        shapes, left, right = {_LEFT: (height, rank), _RIGHT: (rank, width)}, _LEFT, _RIGHT
    for part, shape in {**shapes, **({_NORMS: (height,)} if settings.dora else {})}.items():
        _check(store, parts[part], shape)
    scaling = settings.scaling(module) * weight
    if abs(scaling) > _MAX_SCALING:
        raise AdapterError(
            f"the scaling of {module} in the adapter {store.folder} is {scaling:g}, which doesn't "
            "fit FP32; use a smaller weight"
        )
    return LowRank(
        target.rows,
        partial(_read, store, parts[left], turned=turned),
        partial(_read, store, parts[right], turned=turned),
        scaling,
        partial(_read, store, parts[_NORMS]) if settings.dora else None,
    )


def _check(store: TensorFolder, name: str, shape: Shape) -> None:
    stored = store.tensors[name]
    if stored.dtype not in FLOAT_DTYPES or stored.shape != tuple(shape):
        raise AdapterError(
            f"{name} in {stored.file} is {stored.dtype} {list(stored.shape)}; the model and the "
            f"adapter's settings call for {list(shape)} of one of {', '.join(FLOAT_DTYPES)}"
        )


def _read(store: TensorFolder, name: str, *, turned: bool = False) -> torch.Tensor:
    values = store.load_finite(name)
    return values.T if turned else values


def _targets(config: Phi3Config) -> dict[str, _Target]:
    """Modules that an adapter can change, by name; those of Llama models are rows of Phi-3's."""
    shapes = {EMBEDDING: (config.vocab_size, config.hidden_size), FINAL_NORM: (config.hidden_size,)}
    shapes[HEAD] = shapes[EMBEDDING]
    for index in range(config.num_hidden_layers):
        for key, role in BLOCK_TENSORS.items():
            shapes[block_tensor_name(index, key)] = role.shape(config)
    targets = {
        name.removesuffix(".weight"): _Target(name, slice(None), shape)
        for name, shape in shapes.items()
    }
    for index in range(config.num_hidden_layers):
        for key, parts in SPLITS.items():
            start = 0
            for part in parts:
                shape = part.shape(config)
                rows = slice(start, start + shape[0])
                start += shape[0]
                module = (block_prefix(index) + part.name).removesuffix(".weight")
                targets[module] = _Target(block_tensor_name(index, key), rows, shape)
    return targets
