"""Weights of a model, handed out piece by piece."""

from typing import Protocol

import torch

from phi3quant.model.architecture import Block
from phi3quant.model.config import Phi3Config


class ModelWeights(Protocol):
    """A model whose weights are handed out piece by piece; every reader of a format is one.

    All tensors are FP32: blocks as layout.BLOCK_TENSORS says, embedding and head [vocab, hidden],
    final norm [hidden].
    """

    @property
    def config(self) -> Phi3Config:
        """The model's configuration."""

    def embedding(self) -> torch.Tensor:
        """Token embeddings [vocab, hidden]."""

    def block(self, index: int) -> Block:
        """The tensors of one decoder block."""

    def final_norm(self) -> torch.Tensor:
        """Weight of the last RMSNorm [hidden]."""

    def head(self) -> torch.Tensor:
        """Output projection [vocab, hidden]; the embedding when tied."""
