"""Weights of small models, kept in memory for work that needs them again and again."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from phi3quant.model.architecture import Block, tensor_shapes
from phi3quant.model.config import Phi3Config
from phi3quant.model.device import CPU, free_memory
from phi3quant.model.weights import ModelWeights, OnDevice

KEPT_BYTES = 2_000_000_000
"""Limit on FP32 weights kept in the CPU's memory; those of larger models are read every time."""
# Share of a GPU's free memory that weights may take; the rest is for the cache.
_KEPT_SHARE = 0.75


@dataclass(frozen=True)
class KeptWeights:
    """Model with all weights in memory; implements ModelWeights."""

    config: Phi3Config
    blocks: Sequence[Block]
    table: torch.Tensor
    norm: torch.Tensor
    output: torch.Tensor

    def embedding(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.table

    def block(self, index: int) -> Block:
        """See ModelWeights."""
        return self.blocks[index]

    def final_norm(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.norm

    def head(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.output


def kept_if_small(
    model: ModelWeights,
    device: torch.device = CPU,
    limit: int | None = None,
    prepare: Callable[[Block], Block] = lambda block: block,
) -> KeptWeights | OnDevice:
    """The weights in a device's memory if they fit, otherwise read whenever they are needed.

    Args:
        model: the weights.
        device: device to keep them on.
        limit: limit on the bytes of all weights as FP32, next to KEPT_BYTES or most of a GPU's free
            memory.
        prepare: conversion of each block that is kept.
    """
    free = free_memory(device)
    room = KEPT_BYTES if free is None else int(free * _KEPT_SHARE)
    config, moved = model.config, OnDevice(model, device)
    if _full_bytes(config) > (room if limit is None else min(room, limit)):
        return moved
    table = moved.embedding()
    blocks = [prepare(moved.block(index)) for index in range(config.num_hidden_layers)]
    head = table if config.tie_word_embeddings else moved.head()
    return KeptWeights(config, blocks, table, moved.final_norm(), head)


def _full_bytes(config: Phi3Config) -> int:
    """Bytes of all weights as FP32."""
    return 4 * sum(math.prod(shape) for shape in tensor_shapes(config).values())
