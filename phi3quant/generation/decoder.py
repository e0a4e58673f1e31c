"""Incremental next-token models."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from phi3quant.model.config import Phi3Config
from phi3quant.model.decoder_block import decoder_block, embed, logits, sequence_context
from phi3quant.model.device import CPU
from phi3quant.model.kept_weights import KeptWeights, kept_if_small
from phi3quant.model.kv_cache import LayerCache
from phi3quant.model.weights import ModelWeights

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
        self._model, self._device = model, device
        self._weights = kept_if_small(model, device, kept_bytes)
        self._seen: list[int] = []
        self._caches = self._empty()

    @property
    def config(self) -> Phi3Config:
        """See Decoder."""
        return self._model.config

    @property
    def runtime(self) -> str:
        """See Decoder."""
        kept = "in memory" if isinstance(self._weights, KeptWeights) else "read for every token"
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
