"""Access to a model's weights, piece by piece."""

from dataclasses import dataclass
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


@dataclass(frozen=True)
class OnDevice:
    """Model whose tensors are read whenever they are needed, onto a device.

    Implements ModelWeights.
    """

    model: ModelWeights
    device: torch.device

    @property
    def config(self) -> Phi3Config:
        """See ModelWeights."""
        return self.model.config

    def embedding(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.model.embedding().to(self.device)

    def block(self, index: int) -> Block:
        """See ModelWeights."""
        return {key: value.to(self.device) for key, value in self.model.block(index).items()}

    def final_norm(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.model.final_norm().to(self.device)

    def head(self) -> torch.Tensor:
        """See ModelWeights."""
        return self.model.head().to(self.device)
