"""Text that a model writes itself: tokens sampled from its predictions, many windows at a time."""

from collections import deque
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol

import torch

from calib.prompts import Prompts
from phi3quant.errors import CheckpointError
from phi3quant.model.architecture import Block
from phi3quant.model.config import Phi3Config
from phi3quant.model.decoder_block import (
    SequenceContext,
    decoder_block,
    embed,
    logits,
    sliding_mask,
)
from phi3quant.model.device import CPU, free_memory
from phi3quant.model.kept_weights import KeptWeights, kept_if_small
from phi3quant.model.kv_cache import LayerCache
from phi3quant.model.precision import for_products
from phi3quant.model.rope import RopeTables, rope_tables
from phi3quant.model.weights import ModelWeights
from phi3quant.notices import notify
from phi3quant.progress import Step

TEMPERATURE = 1.0
"""Temperature of sampling: the model's own distribution."""

# Limits on the cache's bytes in the CPU's memory: for weights in memory, and for weights that are
# read for every position, which a larger batch makes up for.
_CACHE_BYTES, _CACHE_BYTES_READING = 1 << 30, 4 << 30
# Shares of a limit on memory for weights and cache, and of a GPU's free memory for the cache.
_WEIGHTS_SHARE, _CACHE_SHARE, _FREE_SHARE = 0.5, 0.25, 0.5
# Tokens of spare capacity in a LayerCache, at most.
_SPARE = 257


class Advance(Protocol):
    """Incremental next-token model of a batch."""

    def __call__(self, ids: torch.Tensor, position: int) -> torch.Tensor:
        """Append int64 token ids [batch]; return the scores of the next, FP32 [batch, vocab]."""


@dataclass
class _Window:
    """State of a window that is being written.

    Attributes:
        prompts: tokens that are set.
        is_chat: whether its documents are chats.
        draws: a number in [0, 1) for each position, which draws the first token of a document.
        ids: tokens so far.
        pending: tokens that are set next.
        asks: whether the user's turn is being written.
    """

    prompts: Prompts
    is_chat: bool
    draws: Sequence[float]
    ids: list[int] = field(default_factory=list)
    pending: deque[int] = field(default_factory=deque)
    asks: bool = False

    def begin(self) -> None:
        """Begin a document."""
        self.asks = self.is_chat
        if self.is_chat:
            self.pending.extend(self.prompts.question)
            return
        firsts = self.prompts.firsts
        draw = self.draws[max(0, len(self.ids) - 1)]
        first = firsts[int(draw * len(firsts))]
        self.pending.extend((*self.prompts.start, first))

    def add(self, sampled: int) -> int:
        """Append the next pending token, or else the sampled one; return it."""
        if self.pending:
            self.ids.append(self.pending.popleft())
            return self.ids[-1]
        self.ids.append(sampled)
        if sampled in self.prompts.stops:
            if self.asks and self.prompts.answer[:1] == (sampled,):
                self.asks = False
                self.pending.extend(self.prompts.answer[1:])
            else:
                self.begin()
        return sampled


def written_windows(
    model: ModelWeights,
    prompts: Prompts,
    tokens: AbstractSet[int],
    shape: tuple[int, int],
    seed: int,
    step: Step,
    device: torch.device = CPU,
    max_memory: int | None = None,
) -> torch.Tensor:
    """Windows of text by a model, half of them chats if there is a prompt for these.

    When a document ends, the next one begins in the same window.

    Args:
        model: the weights; read once for every position of a batch if they are large.
        prompts: tokens that are set.
        tokens: ids that may be sampled; the rest of the embedding's rows is padding.
        shape: number of windows, and tokens per window.
        seed: sampling seed.
        step: receives 1 for every token written.
        device: device that computes.
        max_memory: limit on bytes of its memory; None for what is customary.

    Returns:
        int64 [windows, length]. It depends on the batch only by rounding.

    Raises:
        CheckpointError: the model's predictions aren't finite.
    """
    count, length = shape
    limit = None if max_memory is None else int(max_memory * _WEIGHTS_SHARE)
    kept = kept_if_small(model, device, limit, for_products)
    batch = batch_size(model.config, shape, _cache_limit(kept, max_memory, device))
    if device.type == "cpu" and not isinstance(kept, KeptWeights):
        steps = -(-count // batch) * length
        note = (
            "self: the model is too large to stay in memory, so all its weights are read for each "
            f"of {steps:,} steps, which takes long; a GPU (--device cuda), fewer windows (self:16) "
            "or another text is faster"
        )
        notify([note])
    allowed = torch.zeros(model.config.vocab_size, dtype=torch.bool)
    allowed[[each for each in tokens if each < len(allowed)]] = True
    allowed = allowed.to(device)
    random = torch.Generator().manual_seed(seed)
    written = []
    with torch.inference_mode():
        for first in range(0, count, batch):
            numbers = range(first, min(count, first + batch))
            # Each window has its numbers whatever the batch is.
            chances = torch.stack(
                [torch.rand(2, length, generator=random, dtype=torch.float64) for _ in numbers]
            )
            windows = [
                _Window(prompts, bool(prompts.question) and bool(number % 2), draws.tolist())
                for number, draws in zip(numbers, chances[:, 0], strict=True)
            ]
            _write(windows, _Advance(kept, length, device), allowed, chances[:, 1], step)
            written += [each.ids for each in windows]
    return torch.tensor(written, dtype=torch.int64)


def _write(
    windows: Sequence[_Window],
    advance: Advance,
    allowed: torch.Tensor,
    chances: torch.Tensor,
    step: Step,
) -> None:
    """Fill windows with tokens.

    Args:
        windows: empty windows.
        advance: the model.
        allowed: bool [vocab], tokens that may be sampled.
        chances: FP64 [windows, length] in [0, 1), one for every sampled token.
        step: receives 1 for every token written.
    """
    for window in windows:
        window.begin()
    length = chances.shape[1]
    sampled = [0] * len(windows)
    for position in range(length):
        ids = [window.add(each) for window, each in zip(windows, sampled, strict=True)]
        step(len(windows))
        if position + 1 < length:
            scores = advance(torch.tensor(ids), position)
            sampled = sample(scores, allowed, chances[:, position]).tolist()


def sample(scores: torch.Tensor, allowed: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
    """Tokens at given quantiles of the predicted distributions.

    Args:
        scores: FP32 [batch, vocab].
        allowed: bool [vocab]; the other tokens get no probability.
        chances: FP64 [batch] in [0, 1).

    Returns:
        int64 [batch], on the CPU.

    Raises:
        CheckpointError: a score isn't finite.
    """
    scores = scores.masked_fill(~allowed, -torch.inf) / TEMPERATURE
    probabilities = scores.softmax(dim=-1)
    # MPS has no FP64.
    probabilities = probabilities.cpu() if scores.device.type == "mps" else probabilities
    sums = probabilities.cumsum(dim=-1, dtype=torch.float64)
    totals = sums[:, -1:]
    if not bool(totals.isfinite().all()):
        raise CheckpointError(
            "the model's predictions are not finite, so it can't write text; check the model, or "
            "calibrate on other text than self"
        )
    # The first sum above the target belongs to a token with a probability above zero.
    targets = chances.to(sums.device)[:, None] * totals
    return torch.searchsorted(sums, targets, right=True)[:, 0].cpu()


class _Advance:
    """Implements Advance with a cache for a batch of windows of ``length`` tokens."""

    def __init__(self, weights: ModelWeights, length: int, device: torch.device) -> None:
        self._weights, self._device, self._length = weights, device, length
        # Factors of LongRoPE are those of whole windows, as in calibration.
        self._tables = rope_tables(weights.config, length).to(device)
        self._caches = [LayerCache() for _ in range(weights.config.num_hidden_layers)]

    def __call__(self, ids: torch.Tensor, position: int) -> torch.Tensor:
        """See Advance."""
        weights, config = self._weights, self._weights.config
        context = self._context(config, position)
        hidden = embed(weights.embedding(), ids[:, None].to(self._device))
        for index, cache in enumerate(self._caches):
            hidden = decoder_block(self._block(index), context, hidden, cache=cache)
        norm, head = weights.final_norm(), weights.head()
        return logits(hidden[:, -1], norm, head, config.rms_norm_eps)

    def _block(self, index: int) -> Block:
        block = self._weights.block(index)
        return block if isinstance(self._weights, KeptWeights) else for_products(block)

    def _context(self, config: Phi3Config, position: int) -> SequenceContext:
        row = slice(position, position + 1)
        tables = RopeTables(self._tables.cos[row], self._tables.sin[row])
        mask = sliding_mask(config.sliding_window, position + 1, position)
        on_device = None if mask is None else mask.to(self._device)
        return SequenceContext(config, tables, on_device, causal=False)


def batch_size(config: Phi3Config, shape: tuple[int, int], limit: int) -> int:
    """Windows that are written at the same time, in batches of nearly equal size.

    Args:
        config: configuration of the model.
        shape: number of windows, and tokens per window.
        limit: limit on the bytes of the cache.
    """
    count, length = shape
    token = 2 * 4 * config.num_hidden_layers * config.key_value_rows
    most = max(1, limit // (token * (length + _SPARE)))
    batches = -(-count // most)
    return -(-count // batches)


def _cache_limit(weights: ModelWeights, max_memory: int | None, device: torch.device) -> int:
    """Limit on the bytes of a batch's cache."""
    free = free_memory(device)
    if free is not None:
        limit = int(free * _FREE_SHARE)
    else:
        limit = _CACHE_BYTES if isinstance(weights, KeptWeights) else _CACHE_BYTES_READING
    return limit if max_memory is None else min(limit, int(max_memory * _CACHE_SHARE))
