"""Names and shapes of the tensors of a Phi-3 checkpoint, as data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from phi3quant.model.config import Phi3Config

if TYPE_CHECKING:
    # `estimate` needs only shapes, and loading torch takes seconds.
    import torch

Shape: TypeAlias = tuple[int, ...]
Block: TypeAlias = "Mapping[str, torch.Tensor]"
"""Tensors of a decoder block, by short name (the keys of BLOCK_TENSORS)."""


@dataclass(frozen=True)
class TensorRole:
    """A tensor of a block.

    Attributes:
        name: the tensor's name within the block.
        shape: computes its shape from a configuration.
    """

    name: str
    shape: Callable[[Phi3Config], Shape]


BLOCK_TENSORS: Mapping[str, TensorRole] = {
    "input_layernorm": TensorRole("input_layernorm.weight", lambda c: (c.hidden_size,)),
    "qkv_proj": TensorRole(
        "self_attn.qkv_proj.weight",
        lambda c: (c.query_rows + 2 * c.key_value_rows, c.hidden_size),
    ),
    "o_proj": TensorRole("self_attn.o_proj.weight", lambda c: (c.hidden_size, c.query_rows)),
    "post_attention_layernorm": TensorRole(
        "post_attention_layernorm.weight", lambda c: (c.hidden_size,)
    ),
    "gate_up_proj": TensorRole(
        "mlp.gate_up_proj.weight", lambda c: (2 * c.intermediate_size, c.hidden_size)
    ),
    "down_proj": TensorRole("mlp.down_proj.weight", lambda c: (c.hidden_size, c.intermediate_size)),
}

SPLITS: Mapping[str, tuple[TensorRole, ...]] = {
    "qkv_proj": (
        TensorRole("self_attn.q_proj.weight", lambda c: (c.query_rows, c.hidden_size)),
        TensorRole("self_attn.k_proj.weight", lambda c: (c.key_value_rows, c.hidden_size)),
        TensorRole("self_attn.v_proj.weight", lambda c: (c.key_value_rows, c.hidden_size)),
    ),
    "gate_up_proj": (
        TensorRole("mlp.gate_proj.weight", lambda c: (c.intermediate_size, c.hidden_size)),
        TensorRole("mlp.up_proj.weight", lambda c: (c.intermediate_size, c.hidden_size)),
    ),
}
"""Matrices whose rows are those of several matrices of a Llama model, in this order."""


def part_shapes(index: int, key: str, config: Phi3Config) -> dict[str, tuple[int, int]]:
    """Rows and columns of the parts of matrix ``key`` (of SPLITS) of a block, by their names."""
    shapes = {block_prefix(index) + part.name: part.shape(config) for part in SPLITS[key]}
    return {name: (rows, columns) for name, (rows, columns) in shapes.items()}


LINEARS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
"""Matrices of a block that are quantized, in the order of computation."""

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


def block_tensor_name(index: int, key: str) -> str:
    """Name, in the checkpoint, of tensor ``key`` (a key of BLOCK_TENSORS) of block ``index``."""
    return f"{block_prefix(index)}{BLOCK_TENSORS[key].name}"


def block_prefix(index: int) -> str:
    """Beginning of the names of all tensors of block ``index``."""
    return f"model.layers.{index}."


def tensor_shapes(config: Phi3Config) -> dict[str, Shape]:
    """Name and shape of every tensor of the model, in the order of computation.

    A tied model has no ``lm_head.weight``.
    """
    shapes: dict[str, Shape] = {EMBEDDING: (config.vocab_size, config.hidden_size)}
    for index in range(config.num_hidden_layers):
        for key, role in BLOCK_TENSORS.items():
            shapes[block_tensor_name(index, key)] = role.shape(config)
    shapes[FINAL_NORM] = (config.hidden_size,)
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.vocab_size, config.hidden_size)
    return shapes


def linear_shapes(config: Phi3Config) -> dict[str, tuple[int, int]]:
    """Rows and columns of each linear of a block, by its name in LINEARS."""
    shapes = {}
    for name in LINEARS:
        rows, columns = BLOCK_TENSORS[name].shape(config)
        shapes[name] = (rows, columns)
    return shapes
