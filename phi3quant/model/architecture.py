"""Which tensors a Phi-3 checkpoint holds and what shape each has: the architecture as data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from phi3quant.model.config import Phi3Config

if TYPE_CHECKING:
    # Sizes are wanted at once, and torch takes seconds to load.
    import torch

Shape: TypeAlias = tuple[int, ...]
Block: TypeAlias = "Mapping[str, torch.Tensor]"
"""One decoder block's tensors under their short names (the keys of BLOCK_TENSORS)."""


@dataclass(frozen=True)
class TensorRole:
    """A tensor's name within its scope and its shape for a given model."""

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

LINEARS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
"""The matrices of a block that get quantized, in the order in which they are computed."""

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


def block_tensor_name(index: int, key: str) -> str:
    """The checkpoint's name of block ``index``'s tensor ``key``."""
    return f"model.layers.{index}.{BLOCK_TENSORS[key].name}"


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
    """Rows and columns of each linear of a block."""
    shapes = {}
    for name in LINEARS:
        rows, columns = BLOCK_TENSORS[name].shape(config)
        shapes[name] = (rows, columns)
    return shapes
