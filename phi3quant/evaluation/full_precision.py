"""Predictions of a model in full precision, computed once for all artifacts made from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from phi3quant.model.config import Phi3Config
from phi3quant.model.device import CPU
from phi3quant.model.predictor import BlockwisePredictor, CountSteps, Predictions
from phi3quant.model.weights import ModelWeights


@dataclass(frozen=True)
class FullPrecision:
    """A text in windows, and the states from which the original predicts its tokens.

    Attributes:
        windows: token ids, int64 [windows, length].
        description: names and hashes of the text; see evaluate.text_windows.
        states: output of the last block before each predicted token, FP32 [tokens, hidden].
    """

    windows: torch.Tensor
    description: Mapping[str, Any]
    states: torch.Tensor

    def predictor(self, model: ModelWeights, device: torch.device = CPU) -> "KeptPredictor":
        """Predictor of these windows.

        Args:
            model: the original.
            device: device that computes the head.
        """
        return KeptPredictor(BlockwisePredictor(model, device), self)


@dataclass(frozen=True)
class KeptPredictor:
    """Predictor that skips the blocks; implements Predictor.

    Attributes:
        original: predictor of the original.
        kept: states of the windows that it can predict.
    """

    original: BlockwisePredictor
    kept: FullPrecision

    @property
    def config(self) -> Phi3Config:
        """See Predictor."""
        return self.original.config

    @property
    def steps(self) -> int:
        """See Predictor."""
        return 0

    def prepare(self, windows: torch.Tensor, tell: CountSteps) -> Predictions:
        """See Predictor; ``windows`` must be those of the states."""
        del tell
        if not torch.equal(windows, self.kept.windows):
            raise ValueError("the states are of other windows")
        return self.original.from_states(self.kept.states)
