"""What can write: anything that says what comes after tokens, a few at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from phi3quant.model.architecture import Block, tensor_shapes
from phi3quant.model.config import Phi3Config
from phi3quant.model.decoder_block import decoder_block, embed, logits, sequence_context
from phi3quant.model.kv_cache import LayerCache
from phi3quant.model.weights import ModelWeights

KEPT_BYTES = 2_000_000_000
"""Weights in FP32 up to this stay in memory; those of larger models are read for every token."""

# Tokens of a prompt that pass through the blocks at once.
_PIECE = 512


@runtime_checkable
class Decoder(Protocol):
    """A model that writes; it remembers the tokens it was given."""

    @property
    def config(self) -> Phi3Config:
        """The model's configuration."""

    @property
    def runtime(self) -> str:
        """What computes, for people."""

    def feed(self, ids: Sequence[int]) -> torch.Tensor:
        """Take in tokens after those given before; gives FP32 [vocab], scores of the next."""


class BlockwiseDecoder:
    """Computes with weights in FP32 and a cache; implements Decoder.

    A small model's weights are kept. Those of a larger one are read and dequantized block by block
    for every token, in the memory of one block, which takes seconds a token.
    """

    def __init__(self, model: ModelWeights, kept_bytes: int = KEPT_BYTES) -> None:
        self._model = model
        self._weights = _keep(model) if _full_bytes(model.config) <= kept_bytes else model
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
        return f"phi3quant, weights {kept}"

    def feed(self, ids: Sequence[int]) -> torch.Tensor:
        """See Decoder."""
        start = len(self._seen)
        self._seen.extend(ids)
        if start and self._switches(start, len(self._seen)):
            # All positions turn otherwise from here on, so that nothing in the cache holds.
            self._caches, start = self._empty(), 0
        config, weights = self.config, self._weights
        hidden = torch.empty(0)
        length = len(self._seen)
        # LongRoPE goes by the whole text, so that a prompt past its limit isn't cut at all.
        piece = length if self._switches(start, length) else _PIECE
        table = weights.embedding()
        for first in range(start, length, piece):
            last = min(length, first + piece)
            context = sequence_context(config, last, first)
            hidden = embed(table, torch.tensor([self._seen[first:last]]))
            for index, cache in enumerate(self._caches):
                hidden = decoder_block(weights.block(index), context, hidden, cache=cache)
        end = hidden[0, -1:]
        return logits(end, weights.final_norm(), weights.head(), config.rms_norm_eps)[0]

    def _switches(self, before: int, after: int) -> bool:
        """Whether LongRoPE takes other factors after than before."""
        limit = self.config.original_max_position_embeddings
        return self.config.long_rope is not None and before <= limit < after

    def _empty(self) -> list[LayerCache]:
        return [LayerCache() for _ in range(self._model.config.num_hidden_layers)]


@dataclass(frozen=True)
class _Kept:
    """A model whose weights have been read; implements ModelWeights."""

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


def _keep(model: ModelWeights) -> _Kept:
    config, table = model.config, model.embedding()
    blocks = [model.block(index) for index in range(config.num_hidden_layers)]
    head = table if config.tie_word_embeddings else model.head()
    return _Kept(config, blocks, table, model.final_norm(), head)


def _full_bytes(config: Phi3Config) -> int:
    """Bytes of all weights in FP32."""
    return 4 * sum(math.prod(shape) for shape in tensor_shapes(config).values())
