"""Access to a model's weights, piece by piece."""

from typing import Protocol

import torch

from phi3quant.model.architecture import Block
from phi3quant.model.config import Phi3Config


class ModelWeights(Protocol):
    """A model whose weights can be read piece by piece; every reader of a format implements it.

    All tensors are FP32. Names and shapes of a block's tensors: architecture.BLOCK_TENSORS.
    """

    @property
    def config(self) -> Phi3Config:
        """The model's configuration."""

    def embedding(self) -> torch.Tensor:
        """Token embeddings [vocab, hidden]."""

    def block(self, index: int) -> Block:
        """Tensors of decoder block ``index``."""

    def final_norm(self) -> torch.Tensor:
        """Weight of the last RMSNorm [hidden]."""

    def head(self) -> torch.Tensor:
        """Output projection [vocab, hidden]; in a tied model, the embedding."""
