"""What can be scored: anything that predicts each next token of windows of text.

A model that is a bag of weights becomes a predictor that computes block by block; a model that
only a runtime can run brings its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch.nn import functional

from phi3quant.model.config import Phi3Config
from phi3quant.model.decoder_block import decoder_block, embed, logits, sequence_context
from phi3quant.model.weights import ModelWeights

CountSteps = Callable[[int], None]
"""Called with the number of steps just done."""

Predictions: TypeAlias = Callable[[], Iterator[torch.Tensor]]
"""Gives the log-probabilities of every position that has a next token, as often as it is called.

FP32 [rows, vocab]: positions 0 to length - 2 of the first window, then of the second, and so on,
in pieces of PIECE_ROWS rows (the last one is shorter), so that several models can be zipped."""

PIECE_ROWS = 512
"""Rows of a piece of log-probabilities: for a vocabulary of 32,064, a piece is 66 MB."""

# Tokens that pass through a block at once.
_BLOCK_TOKENS = 4096


@runtime_checkable
class Predictor(Protocol):
    """A model that can be scored."""

    @property
    def config(self) -> Phi3Config:
        """The model's configuration."""

    @property
    def steps(self) -> int:
        """Steps of progress that ``prepare`` takes."""

    def prepare(self, windows: torch.Tensor, tell: CountSteps) -> Predictions:
        """Do what can be done once for all windows.

        Args:
            windows: int64 token ids [windows, length].
            tell: told of steps done, ``steps`` of them in all.

        Returns:
            What gives the log-probabilities. All windows' states may stay in memory for it, but
            never the log-probabilities of more than a piece, nor weights while it isn't running.
        """


@dataclass(frozen=True)
class BlockwisePredictor:
    """Computes with weights in FP32, one block in memory at a time; implements Predictor."""

    model: ModelWeights

    @property
    def config(self) -> Phi3Config:
        """See Predictor."""
        return self.model.config

    @property
    def steps(self) -> int:
        """See Predictor: the blocks."""
        return self.config.num_hidden_layers

    def prepare(self, windows: torch.Tensor, tell: CountSteps) -> Predictions:
        """See Predictor; the hidden states FP32 [windows, length, hidden] are kept."""
        states = final_states(self.model, windows, tell)[:, :-1].flatten(0, 1)
        return lambda: self._log_probabilities(states)

    def _log_probabilities(self, states: torch.Tensor) -> Iterator[torch.Tensor]:
        norm, head = self.model.final_norm(), self.model.head()
        for rows in torch.split(states, PIECE_ROWS):
            yield functional.log_softmax(logits(rows, norm, head, self.config.rms_norm_eps), dim=-1)


def predictor(model: ModelWeights | Predictor) -> Predictor:
    """What scores a model: itself, or the computation with its weights."""
    return model if isinstance(model, Predictor) else BlockwisePredictor(model)


def final_states(model: ModelWeights, windows: torch.Tensor, tell: CountSteps) -> torch.Tensor:
    """Output of the last block for every position: FP32 [windows, length, hidden]."""
    context = sequence_context(model.config, windows.shape[1])
    hidden = embed(model.embedding(), windows)
    for index in range(model.config.num_hidden_layers):
        block = model.block(index)
        for batch in torch.split(hidden, max(1, _BLOCK_TOKENS // windows.shape[1])):
            batch.copy_(decoder_block(block, context, batch))
        tell(1)
    return hidden
