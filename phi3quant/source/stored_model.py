"""Interface of models on disk, of any format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from phi3quant.model.config import Phi3Config
from phi3quant.model.weights import ModelWeights


class StoredModel(Protocol):
    """A model on disk and facts about its files."""

    @property
    def config(self) -> Phi3Config:
        """The model's configuration."""

    @property
    def format(self) -> str:
        """Name of the storage format, for messages."""

    @property
    def files(self) -> Sequence[Path]:
        """The files of weights, and config.json where there is one."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors."""

    @property
    def linear_bytes(self) -> int:
        """Bytes of the blocks' matrices (architecture.LINEARS), scales included."""

    @property
    def notes(self) -> Sequence[str]:
        """Choices made while reading that the user should know about, one sentence each."""


class StoredWeights(StoredModel, ModelWeights, Protocol):
    """A model on disk whose weights can be read piece by piece."""
