"""Passes through a quantized model whose scales and norms are multiplied by factors.

The backward pass computes each block again from its inputs, so that the activations of only one
block are in memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from converters.parts import Parts
from phi3quant.model.architecture import Block
from phi3quant.model.config import Phi3Config
from phi3quant.model.decoder_block import decoder_block, embed, sequence_context
from phi3quant.tuning.factors import BlockTerms, block_terms


@dataclass(frozen=True)
class Student:
    """A quantized model with factors.

    Attributes:
        config: configuration of the model.
        parts: its stored parts.
        table: FP32 embeddings [vocab, hidden].
        blocks: logarithms of each block's factors (see factors.Logs), on the device that computes.
        products: type of matrix products.
        kept_bytes: limit on bytes of blocks kept ready; other blocks are read for every pass.
    """

    config: Phi3Config
    parts: Parts
    table: torch.Tensor
    blocks: list[dict[str, torch.Tensor]]
    products: torch.dtype
    kept_bytes: int
    _kept: dict[int, BlockTerms] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Device that computes."""
        return self.table.device

    def terms(self, index: int) -> BlockTerms:
        """Terms of a block, which are kept while there is room."""
        if index in self._kept:
            return self._kept[index]
        terms = block_terms(self.parts.block(index), self.device)
        if sum(kept.nbytes for kept in self._kept.values()) + terms.nbytes <= self.kept_bytes:
            self._kept[index] = terms
        return terms

    @torch.no_grad()
    def forward(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """States before each block and after the last, FP32 [windows, length, hidden].

        Args:
            ids: token ids, int64 [windows, length].
        """
        context = sequence_context(self.config, ids.shape[1], device=self.device)
        states = [embed(self.table, ids.to(self.device))]
        for index in range(self.config.num_hidden_layers):
            states.append(decoder_block(self._block(index), context, states[-1]))
        return states

    def backward(self, states: list[torch.Tensor], gradient: torch.Tensor) -> None:
        """Set the gradients of all factors of the blocks.

        Args:
            states: result of ``forward``; emptied.
            gradient: gradient by the last state, FP32 [windows, length, hidden].
        """
        context = sequence_context(self.config, gradient.shape[1], device=self.device)
        states.pop()
        for index in reversed(range(self.config.num_hidden_layers)):
            logs = self.blocks[index]
            leaves = {name: log.detach().requires_grad_() for name, log in logs.items()}
            hidden = states.pop().requires_grad_()
            block = self.terms(index).multiplied(leaves, self.products)
            output = decoder_block(block, context, hidden)
            gradient, *by_logs = torch.autograd.grad(output, [hidden, *leaves.values()], gradient)
            for log, by_log in zip(logs.values(), by_logs, strict=True):
                log.grad = by_log

    def _block(self, index: int) -> Block:
        return self.terms(index).multiplied(self.blocks[index], self.products)


def neutral_blocks(
    config: Phi3Config, parts: Parts, device: torch.device
) -> list[dict[str, torch.Tensor]]:
    """Factors of one for every block; reads all of them."""
    return [
        block_terms(parts.block(index), device).neutral()
        for index in range(config.num_hidden_layers)
    ]


def named(blocks: list[dict[str, torch.Tensor]], norm: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """All factors with names that are unique in the model."""
    return {
        "norm": norm,
        **{
            f"{index}.{name}": log
            for index, logs in enumerate(blocks)
            for name, log in logs.items()
        },
    }
