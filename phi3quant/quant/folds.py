"""Phi-3's four AWQ folds as data: scalings of channels that don't change the function.

The consumer's input columns are multiplied by s, and the tensor that produces this input is divided
by s. Lin et al., "AWQ: Activation-aware Weight Quantization", 2023.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from phi3quant.model.architecture import Block
from phi3quant.model.config import Phi3Config


@dataclass(frozen=True)
class Fold:
    """A pair of tensors between which the scales of channels can be moved.

    Attributes:
        consumer: linear whose columns are multiplied.
        producer: tensor whose first axis, or a part of it, is divided.
        producer_rows: that part, computed from the configuration.
        shared: number of consumer columns per producer channel, computed from the configuration:
            for o_proj, the query heads per value head (GQA); 1 for the others.
    """

    consumer: str
    producer: str
    producer_rows: Callable[[Phi3Config], slice]
    shared: Callable[[Phi3Config], int]

    def per_column(self, scales: torch.Tensor, config: Phi3Config) -> torch.Tensor:
        """Expand FP32 scales [channels] to the consumer's columns [in]."""
        shared = self.shared(config)
        if shared == 1:
            return scales
        heads = scales.view(-1, 1, config.head_dim)
        return heads.expand(-1, shared, -1).reshape(-1)

    def per_channel(self, columns: torch.Tensor, config: Phi3Config) -> torch.Tensor:
        """Mean of an FP32 statistic [in] over the columns that share a channel: [channels]."""
        shared = self.shared(config)
        if shared == 1:
            return columns
        return columns.view(-1, shared, config.head_dim).mean(dim=1).reshape(-1)

    def apply(
        self, block: Block, scales: torch.Tensor, config: Phi3Config
    ) -> dict[str, torch.Tensor]:
        """The block after moving the FP32 scales [channels]; no tensor is changed in place.

        Raises:
            ValueError: a scale is zero, negative or not finite.
        """
        if not (torch.isfinite(scales).all() and (scales > 0).all()):
            raise ValueError(f"scales of the fold into {self.consumer} must be positive and finite")
        rows = self.producer_rows(config)
        producer = block[self.producer].clone()
        part = producer[rows]
        producer[rows] = part / (scales if part.dim() == 1 else scales[:, None])
        consumer = block[self.consumer] * self.per_column(scales, config)
        return {**block, self.producer: producer, self.consumer: consumer}


def _all_rows(_config: Phi3Config) -> slice:
    return slice(None)


def _value_rows(config: Phi3Config) -> slice:
    return slice(config.query_rows + config.key_value_rows, None)


def _up_rows(config: Phi3Config) -> slice:
    return slice(config.intermediate_size, None)


def _one(_config: Phi3Config) -> int:
    return 1


def folded(block: Block, scales: Mapping[str, torch.Tensor], config: Phi3Config) -> Block:
    """The block after all folds.

    Args:
        block: FP32 tensors.
        scales: FP32 [channels] by the fold's consumer.
        config: configuration of the model.
    """
    for name, value in scales.items():
        block = FOLDS[name].apply(block, value, config)
    return block


FOLDS: Mapping[str, Fold] = {
    fold.consumer: fold
    for fold in (
        Fold("qkv_proj", "input_layernorm", _all_rows, _one),
        Fold("o_proj", "qkv_proj", _value_rows, lambda config: config.queries_per_key_value),
        Fold("gate_up_proj", "post_attention_layernorm", _all_rows, _one),
        Fold("down_proj", "gate_up_proj", _up_rows, _one),
    )
}
"""Folds by the name of their consumer."""
