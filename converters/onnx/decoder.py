"""Text generation from ONNX folders by onnxruntime, with a key-value cache."""

from collections.abc import Sequence
from typing import Any

import torch

from converters.onnx.graph import (
    IDS,
    LOGITS,
    MASK,
    PAST_KEY,
    PAST_VALUE,
    PRESENT_KEY,
    PRESENT_VALUE,
)
from converters.onnx.reader import OnnxModel
from converters.onnx.session import Session, to_tensor
from converters.onnx.surgery import tensor_type
from phi3quant.model.config import Phi3Config

# Tokens of a prompt in one run; the runtime returns the logits of all of them.
_PIECE = 128


class OnnxDecoder:
    """Implementation of generation.decoder.Decoder by an unchanged graph in onnxruntime."""

    def __init__(self, model: OnnxModel) -> None:
        config = self._config = model.config
        self._session = Session(model.graph, model.folder)
        shape = (1, config.num_key_value_heads, 0, config.head_dim)
        self._empty = torch.zeros(shape, dtype=tensor_type(model.graph, PAST_KEY % 0))
        self._past: dict[str, Any] = {}
        self._seen: list[int] = []

    @property
    def config(self) -> Phi3Config:
        """See Decoder."""
        return self._config

    @property
    def runtime(self) -> str:
        """See Decoder."""
        return "onnxruntime"

    def feed(self, ids: Sequence[int]) -> torch.Tensor:
        """See Decoder.

        Raises:
            CheckpointError: the runtime fails.
        """
        start = len(self._seen)
        self._seen.extend(ids)
        length, limit = len(self._seen), self._config.original_max_position_embeddings
        piece = _PIECE
        if self._config.long_rope is not None and start <= limit < length:
            # From here on the graph rotates all positions by other factors. The cache is no longer
            # valid, and the whole text must be run at once.
            start, piece = 0, length
        if not start:
            self._past = dict.fromkeys(self._names(PAST_KEY, PAST_VALUE), self._empty)
        outputs = [LOGITS, *self._names(PRESENT_KEY, PRESENT_VALUE)]
        scores: Any = None
        for first in range(start, length, piece):
            last = min(length, first + piece)
            feeds = {
                IDS: torch.tensor([self._seen[first:last]]),
                MASK: torch.ones((1, last), dtype=torch.int64),
                **self._past,
            }
            scores, *present = self._session.run(outputs, feeds)
            self._past = dict(zip(self._past, present, strict=True))
        return to_tensor(scores)[0, -1]

    def _names(self, *patterns: str) -> list[str]:
        return [
            pattern % index
            for index in range(self._config.num_hidden_layers)
            for pattern in patterns
        ]
