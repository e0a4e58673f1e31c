"""Matrices that tools store in parts, such as gate_proj and up_proj, where Phi-3 has one.

GPTQModel splits gate_up_proj, and a model that was saved as a Llama model has q_proj, k_proj and
v_proj, too. Groups lie in rows, so the codes of the parts are those of the matrix.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch

from converters.packed.layout import Stated
from converters.packed.sizes import SplitMatrices
from phi3quant.errors import SchemeError
from phi3quant.model.architecture import SPLITS, block_tensor_name, part_shapes
from phi3quant.model.config import Phi3Config
from phi3quant.quant.offset_tensor import OffsetTensor
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.source.tensor_folder import TensorFolder

_Codes = TypeVar("_Codes", bound=QuantizedTensor | OffsetTensor)


def split_matrices(store: TensorFolder, config: Phi3Config) -> SplitMatrices:
    """Find the matrices that are stored in parts, packed or plain."""
    stored = {name.rpartition(".")[0] for name in store.tensors}
    found = {}
    for index in range(config.num_hidden_layers):
        for key in SPLITS:
            name = block_tensor_name(index, key)
            parts = part_shapes(index, key, config)
            if name in store.tensors:
                is_split = len(store.tensors[name].pieces) > 1
            else:
                is_split = module_of(name) not in stored and any(
                    module_of(part) in stored for part in parts
                )
            if is_split:
                found[name] = parts
    return found


def module_of(name: str) -> str:
    """Name of the module with a weight of this name."""
    return name.removesuffix(".weight")


def of_whole_matrices(stated: Stated, split: SplitMatrices, store: TensorFolder) -> Stated:
    """The same facts, with those on the parts of a matrix put as facts on the matrix.

    Args:
        stated: facts on stored modules.
        split: matrices that are stored in parts.
        store: tensors of the checkpoint; plain parts are joined in it already.

    Raises:
        SchemeError: the parts of a matrix have different schemes.
    """
    schemes, plain = dict(stated.schemes), list(stated.plain)
    for name, parts in split.items():
        modules = [module_of(part) for part in parts]
        stated_apart = {each: schemes.pop(each) for each in modules if each in schemes}
        own = dict.fromkeys(stated_apart.get(each, stated.scheme) for each in modules)
        if len(own) > 1:
            raise SchemeError(
                f"{' and '.join(modules)} have different schemes ({' and '.join(map(str, own))}), "
                "but Phi-3 has one matrix in their place; export the original checkpoint"
            )
        if stated_apart:
            schemes[module_of(name)] = next(iter(own))
        if name in store.tensors:
            listed = all(map(stated.may_be_plain, modules))
        else:
            listed = any(each in plain for each in modules)
        plain = [each for each in plain if each not in modules]
        plain += [module_of(name)] if listed else []
    return replace(stated, schemes=schemes, plain=tuple(plain))


def joined_rows(parts: Sequence[_Codes]) -> _Codes:
    """One matrix with the rows of all parts, in order; the parts have one scheme."""
    first = parts[0]
    if len(parts) == 1:
        return first
    tensors = [_tensors(part) for part in parts]
    joined: dict[str, Any] = {
        name: torch.cat([each[name] for each in tensors]) for name in tensors[0]
    }
    return replace(first, **joined)


def split_rows(codes: _Codes, parts: Mapping[str, tuple[int, int]]) -> Iterator[tuple[str, _Codes]]:
    """The reverse of ``joined_rows``: names of parts with their rows."""
    begin = 0
    for name, (rows, _) in parts.items():
        own = {field: each[begin : begin + rows] for field, each in _tensors(codes).items()}
        yield name, replace(codes, **own)
        begin += rows


def _tensors(codes: QuantizedTensor | OffsetTensor) -> dict[str, Any]:
    """Tensors of codes by the names of their fields."""
    values = {each.name: getattr(codes, each.name) for each in fields(codes)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
