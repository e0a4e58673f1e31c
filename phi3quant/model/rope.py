"""Rotary position embeddings of Phi-3: plain, partial and LongRoPE."""

from dataclasses import dataclass

import torch

from phi3quant.model.config import Phi3Config


@dataclass(frozen=True)
class RopeTables:
    """cos and sin of every position, FP32 [positions, rotary_dim] each; both halves are equal."""

    cos: torch.Tensor
    sin: torch.Tensor

    def to(self, device: torch.device) -> "RopeTables":
        """The tables on a device; computed on the CPU, they are the same on all devices."""
        return RopeTables(self.cos.to(device), self.sin.to(device))


def rope_tables(config: Phi3Config, length: int) -> RopeTables:
    """Tables for a sequence of ``length`` tokens.

    With LongRoPE, the length of the whole sequence decides which factors apply to all its
    positions: the long ones above ``original_max_position_embeddings``, as in transformers.
    """
    exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    magnitude = 1.0
    if config.long_rope is not None:
        is_long = length > config.original_max_position_embeddings
        rope = config.long_rope
        factors = torch.tensor(rope.long_factor if is_long else rope.short_factor)
        frequencies = 1.0 / (factors * config.rope_theta**exponents)
        magnitude = rope.attention_factor
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return RopeTables(angles.cos() * magnitude, angles.sin() * magnitude)


def rotate(x: torch.Tensor, tables: RopeTables) -> torch.Tensor:
    """Rotate heads FP32 [..., positions, head_dim]; values past rotary_dim stay unchanged.

    Pairs as in GPT-NeoX: value i is rotated together with value i + rotary_dim/2.
    """
    rotary_dim = tables.cos.shape[-1]
    turning, rest = x[..., :rotary_dim], x[..., rotary_dim:]
    first, second = turning.chunk(2, dim=-1)
    rotated = turning * tables.cos + torch.cat((-second, first), dim=-1) * tables.sin
    return torch.cat((rotated, rest), dim=-1) if rest.shape[-1] else rotated
