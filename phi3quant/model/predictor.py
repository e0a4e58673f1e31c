"""Predictors: models that can be scored on windows of text.

A model whose weights can be read is computed block by block; a model that only a runtime can run
has a predictor of its own.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch.nn import functional

from phi3quant.model.architecture import Block
from phi3quant.model.config import Phi3Config
from phi3quant.model.decoder_block import decoder_block, embed, logits, sequence_context
from phi3quant.model.device import CPU, free_memory
from phi3quant.model.weights import ModelWeights

CountSteps = Callable[[int], None]
"""Receives the number of steps just done."""

Predictions: TypeAlias = Callable[[], Iterator[torch.Tensor]]
"""Returns an iterator over the log-probabilities of every position that has a next token.

FP32 [rows, vocab], on any device: positions 0 to length - 2 of the first window, then of the
second, and so on, in pieces of PIECE_ROWS rows (the last one may be shorter), so that several
models can be zipped. Each call starts from the first position."""

PIECE_ROWS = 512
"""Rows of a piece of log-probabilities; a piece is 66 MB for a vocabulary of 32,064."""

# Tokens in a batch that passes through a block.
_BLOCK_TOKENS = 4096
# Share of a GPU's free memory that hidden states may take; the rest is for blocks and heads.
_STATES_SHARE = 0.25


@runtime_checkable
class Predictor(Protocol):
    """A model that can be scored."""

    @property
    def config(self) -> Phi3Config:
        """The model's configuration."""

    @property
    def steps(self) -> int:
        """Number of progress steps in ``prepare``."""

    def prepare(self, windows: torch.Tensor, tell: CountSteps) -> Predictions:
        """Do the work that is needed once for all windows.

        Args:
            windows: int64 token ids [windows, length].
            tell: receives the steps done, ``steps`` in total.

        Returns:
            The predictions. They may keep the states of all windows in memory, but never more
            than one piece of log-probabilities, and no weights while they aren't iterated.
        """


@dataclass(frozen=True)
class BlockwisePredictor:
    """Predictor that computes in FP32 with one block in memory at a time.

    A GPU has one block in its memory, while the CPU reads the next.

    Attributes:
        model: its weights.
        device: device that computes.
    """

    model: ModelWeights
    device: torch.device = CPU

    @property
    def config(self) -> Phi3Config:
        """See Predictor."""
        return self.model.config

    @property
    def steps(self) -> int:
        """See Predictor: the number of blocks."""
        return self.config.num_hidden_layers

    def prepare(self, windows: torch.Tensor, tell: CountSteps) -> Predictions:
        """See Predictor; keeps the hidden states, FP32 [windows, length, hidden], in memory."""
        states = final_states(self.model, windows, tell, self.device)[:, :-1].flatten(0, 1)
        return self.from_states(states)

    def from_states(self, states: torch.Tensor) -> Predictions:
        """Predictions of tokens from the states before them.

        Args:
            states: output of the last block, FP32 [tokens, hidden].
        """
        return lambda: self._log_probabilities(states)

    def _log_probabilities(self, states: torch.Tensor) -> Iterator[torch.Tensor]:
        norm = self.model.final_norm().to(self.device)
        head = self.model.head().to(self.device)
        for part in torch.split(states, PIECE_ROWS):
            rows = part.to(self.device)
            piece = functional.log_softmax(
                logits(rows, norm, head, self.config.rms_norm_eps), dim=-1
            )
            # Sums over scores are in FP64, which MPS doesn't have.
            yield piece.cpu() if piece.device.type == "mps" else piece


def predictor(model: ModelWeights | Predictor, device: torch.device = CPU) -> Predictor:
    """Predictor for a model: the model itself if it is one, otherwise a BlockwisePredictor."""
    return model if isinstance(model, Predictor) else BlockwisePredictor(model, device)


def final_states(
    model: ModelWeights, windows: torch.Tensor, tell: CountSteps, device: torch.device = CPU
) -> torch.Tensor:
    """Output of the last block for every position, FP32 [windows, length, hidden].

    Args:
        model: its weights.
        windows: int64 token ids [windows, length].
        tell: receives 1 after every block.
        device: device that computes; the states are in its memory if they take a small part of it.
    """
    context = sequence_context(model.config, windows.shape[1], device=device)
    hidden = embed(model.embedding(), windows)
    free = free_memory(device)
    if free is None or hidden.nbytes < free * _STATES_SHARE:
        hidden = hidden.to(device)
    for block in _blocks(model, device):
        for batch in torch.split(hidden, max(1, _BLOCK_TOKENS // windows.shape[1])):
            batch.copy_(decoder_block(block, context, batch.to(device)))
        tell(1)
    return hidden


def _blocks(model: ModelWeights, device: torch.device) -> Iterator[Block]:
    """Blocks on a device; for a GPU, the CPU reads the next one while the caller works."""
    count = model.config.num_hidden_layers
    if device.type == "cpu":
        yield from map(model.block, range(count))
        return
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(model.block, 0)
        for index in range(count):
            block = read.result()
            if index + 1 < count:
                read = pool.submit(model.block, index + 1)
            yield {key: tensor.to(device) for key, tensor in block.items()}
