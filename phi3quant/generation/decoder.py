"""Incremental next-token models."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from phi3quant.model.architecture import Block, tensor_shapes
from phi3quant.model.config import Phi3Config
from phi3quant.model.decoder_block import decoder_block, embed, logits, sequence_context
from phi3quant.model.device import CPU, free_memory
from phi3quant.model.kv_cache import LayerCache
from phi3quant.model.weights import ModelWeights

KEPT_BYTES = 2_000_000_000
"""Limit on FP32 weights kept in the CPU's memory; those of larger models are read every time."""
# Share of a GPU's free memory that weights may take; the rest is for the cache.
_KEPT_SHARE = 0.75

# Tokens of a prompt in one pass through the blocks.
_PIECE = 512


@runtime_checkable
class Decoder(Protocol):
    """Incremental next-token model, which keeps the tokens fed so far."""

    @property
    def config(self) -> Phi3Config:
        """The model's configuration."""

    @property
    def runtime(self) -> str:
        """Name of the runtime, for messages."""

    def feed(self, ids: Sequence[int]) -> torch.Tensor:
        """Append tokens to the text; return the scores of the next token, FP32 [vocab]."""


class BlockwiseDecoder:
    """Decoder that computes with FP32 weights and a cache.

    The weights of a small model stay in memory, as do those of any model that fits a GPU. Others
    are read and dequantized block by block for every token: that needs the memory of one block, and
    seconds per token.
    """

    def __init__(
        self, model: ModelWeights, kept_bytes: int | None = None, device: torch.device = CPU
    ) -> None:
        if kept_bytes is None:
            free = free_memory(device)
            kept_bytes = KEPT_BYTES if free is None else int(free * _KEPT_SHARE)
        self._model, self._device = model, device
        kept = _full_bytes(model.config) <= kept_bytes
        self._weights = _keep(model, device) if kept else _Moved(model, device)
        self._seen: list[int] = []
        self._caches = self._empty()

    @property
    def config(self) -> Phi3Config:
        """See Decoder."""
        return self._model.config

    @property
    def runtime(self) -> str:
        """See Decoder."""
        kept = "in memory" if isinstance(self._weights, _Kept) else "read for every token"
        where = "" if self._device.type == "cpu" else f" on {self._device}"
        return f"phi3quant{where}, weights {kept}"

    def feed(self, ids: Sequence[int]) -> torch.Tensor:
        """See Decoder."""
        start = len(self._seen)
        self._seen.extend(ids)
        if start and self._switches(start, len(self._seen)):
            # From here on all positions are rotated by other factors, so the cache is invalid.
            self._caches, start = self._empty(), 0
        config, weights = self.config, self._weights
        hidden = torch.empty(0)
        length = len(self._seen)
        # LongRoPE's factors depend on the whole text, so a prompt past its limit isn't split.
        piece = length if self._switches(start, length) else _PIECE
        table = weights.embedding()
        for first in range(start, length, piece):
            last = min(length, first + piece)
            context = sequence_context(config, last, first, self._device)
            new = torch.tensor([self._seen[first:last]], device=self._device)
            hidden = embed(table, new)
            for index, cache in enumerate(self._caches):
                hidden = decoder_block(weights.block(index), context, hidden, cache=cache)
        end = hidden[0, -1:]
        return logits(end, weights.final_norm(), weights.head(), config.rms_norm_eps)[0].cpu()

    def _switches(self, before: int, after: int) -> bool:
        """Whether LongRoPE's factors differ between texts of these two lengths."""
        limit = self.config.original_max_position_embeddings
        return self.config.long_rope is not None and before <= limit < after

    def _empty(self) -> list[LayerCache]:
        return [LayerCache() for _ in range(self._model.config.num_hidden_layers)]


@dataclass(frozen=True)
class _Moved:
    """Model whose weights are read whenever they are needed; implements ModelWeights."""

    model: ModelWeights
    device: torch.device

    @property
    def config(self) -> Phi3Config:
        return self.model.config

    def embedding(self) -> torch.Tensor:
        return self.model.embedding().to(self.device)

    def block(self, index: int) -> Block:
        return {key: value.to(self.device) for key, value in self.model.block(index).items()}

    def final_norm(self) -> torch.Tensor:
        return self.model.final_norm().to(self.device)

    def head(self) -> torch.Tensor:
        return self.model.head().to(self.device)


@dataclass(frozen=True)
class _Kept:
    """Model with all weights in memory; implements ModelWeights."""

    config: Phi3Config
    blocks: Sequence[Block]
    table: torch.Tensor
    norm: torch.Tensor
    output: torch.Tensor

    def embedding(self) -> torch.Tensor:
        return self.table

    def block(self, index: int) -> Block:
        return self.blocks[index]

    def final_norm(self) -> torch.Tensor:
        return self.norm

    def head(self) -> torch.Tensor:
        return self.output


def _keep(model: ModelWeights, device: torch.device) -> _Kept:
    moved = _Moved(model, device)
    config, table = model.config, moved.embedding()
    blocks = [moved.block(index) for index in range(config.num_hidden_layers)]
    head = table if config.tie_word_embeddings else moved.head()
    return _Kept(config, blocks, table, moved.final_norm(), head)


def _full_bytes(config: Phi3Config) -> int:
    """Bytes of all weights as FP32."""
    return 4 * sum(math.prod(shape) for shape in tensor_shapes(config).values())
