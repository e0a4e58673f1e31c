"""Phi-3's forward pass as plain functions over the tensors of one block.

No function keeps weights: callers pass one block at a time, so the whole model is never in memory.
tests/model/test_decoder_block.py compares the result with transformers' Phi3ForCausalLM.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from phi3quant.model.architecture import Block
from phi3quant.model.config import Phi3Config
from phi3quant.model.device import CPU
from phi3quant.model.kv_cache import LayerCache
from phi3quant.model.rope import RopeTables, rope_tables, rotate

Multiply = Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]
"""Computes a linear, [batch, positions, out], from its name (architecture.LINEARS), its input
[batch, positions, in] and its weight [out, in]."""


@dataclass(frozen=True)
class SequenceContext:
    """Rotary tables and mask that all blocks share; they depend only on the sequences' length.

    With a cache, ``rope`` and the rows of ``mask`` cover only the new positions.
    """

    config: Phi3Config
    rope: RopeTables
    mask: torch.Tensor | None
    """bool [positions, keys], True where a query attends to a key; None: see ``causal``."""
    causal: bool = True
    """Without a mask: whether a query attends only to itself and earlier keys, or to all."""


def sequence_context(
    config: Phi3Config, length: int, start: int = 0, device: torch.device = CPU
) -> SequenceContext:
    """Rotary tables and attention mask for sequences of ``length`` tokens.

    Args:
        config: configuration of the model.
        length: number of tokens, including those in the cache.
        start: number of tokens in the cache; tables and mask rows cover the tokens after them.
        device: device of the hidden states.
    """
    tables = rope_tables(config, length)
    new = RopeTables(tables.cos[start:], tables.sin[start:]).to(device)
    mask = sliding_mask(config.sliding_window, length, start)
    return SequenceContext(config, new, None if mask is None else mask.to(device), causal=not start)


def sliding_mask(window: int | None, length: int, start: int = 0) -> torch.Tensor | None:
    """Causal mask in which each position attends to itself and the ``window - 1`` before it.

    Args:
        window: number of tokens; None: no limit.
        length: number of keys.
        start: position of the first query.

    Returns:
        bool [length - start, length]; None if no mask is needed, because the window covers the
        sequence and the queries start at position 0 or are the last position alone. Attention
        without a mask is faster.
    """
    window = length if window is None else window
    if window >= length and start in (0, length - 1):
        return None
    distance = torch.arange(start, length)[:, None] - torch.arange(length)[None, :]
    return (distance >= 0) & (distance < window)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm over the last axis (Zhang and Sennrich, 2019).

    Args:
        x: FP32 [..., width].
        weight: FP32 [width].
        eps: added to the mean square.
    """
    return functional.rms_norm(x, (x.shape[-1],), weight, eps)


def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``x @ weight.T``, computed in the dtype of ``weight``.

    Args:
        x: FP32 [..., in].
        weight: FP32 or BF16 [out, in]. BF16 products are summed in FP32.

    Returns:
        FP32 [..., out].
    """
    if weight.dtype == x.dtype:
        return functional.linear(x, weight)
    return functional.linear(x.to(weight.dtype), weight).to(x.dtype)


def multiply(_name: str, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``linear`` as a Multiply; the name is ignored."""
    return linear(x, weight)


def embed(embedding: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Hidden states [batch, positions, hidden] of int64 token ids [batch, positions]."""
    return functional.embedding(ids, embedding)


def decoder_block(
    block: Block,
    context: SequenceContext,
    hidden: torch.Tensor,
    product: Multiply = multiply,
    cache: LayerCache | None = None,
) -> torch.Tensor:
    """Output of a decoder block: attention and gated MLP, each with its norm and residual.

    Args:
        block: the block's tensors, FP32 (matrices may be BF16).
        context: from ``sequence_context``, for the length of these sequences.
        hidden: FP32 [batch, positions, hidden].
        product: computes the four linears; callers can observe or replace them.
        cache: keys and values of earlier tokens; those of ``hidden`` are appended.

    Returns:
        FP32 [batch, positions, hidden].
    """
    eps = context.config.rms_norm_eps

    x = rms_norm(hidden, block["input_layernorm"], eps)
    x = attention(product("qkv_proj", x, block["qkv_proj"]), context, cache)
    hidden = hidden + product("o_proj", x, block["o_proj"])

    x = rms_norm(hidden, block["post_attention_layernorm"], eps)
    x = gated(product("gate_up_proj", x, block["gate_up_proj"]))
    return hidden + product("down_proj", x, block["down_proj"])


def gated(gate_up: torch.Tensor) -> torch.Tensor:
    """SwiGLU activation, up * silu(gate): FP32 [..., width] from fused [..., gate|up]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return up * functional.silu(gate)


def attention(
    qkv: torch.Tensor, context: SequenceContext, cache: LayerCache | None = None
) -> torch.Tensor:
    """Causal attention over fused rows.

    Args:
        qkv: FP32 [batch, positions, q|k|v].
        context: as for ``decoder_block``.
        cache: as for ``decoder_block``.

    Returns:
        FP32 [batch, positions, q].
    """
    config = context.config
    sections = [config.query_rows, config.key_value_rows, config.key_value_rows]
    query, key, value = (
        part.view(*part.shape[:2], -1, config.head_dim).transpose(1, 2)
        for part in torch.split(qkv, sections, dim=-1)
    )
    query, key = rotate(query, context.rope), rotate(key, context.rope)
    if cache is not None:
        key, value = cache.extend(key, value)
    if cache is not None and query.shape[2] == 1 and not context.causal:
        # Heads that share a key are rows of one product, so that the cache isn't copied.
        rows = query.reshape(len(query), -1, config.queries_per_key_value, config.head_dim)
        mixed = functional.scaled_dot_product_attention(rows, key, value, attn_mask=context.mask)
        return mixed.flatten(1)[:, None]
    if config.queries_per_key_value > 1:
        key = key.repeat_interleave(config.queries_per_key_value, dim=1)
        value = value.repeat_interleave(config.queries_per_key_value, dim=1)
    mixed = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=context.mask,
        is_causal=context.causal and context.mask is None,
    )
    return mixed.transpose(1, 2).flatten(-2)


def logits(
    hidden: torch.Tensor, final_norm: torch.Tensor, head: torch.Tensor, eps: float
) -> torch.Tensor:
    """Logits of the next token, FP32 [..., vocab].

    Args:
        hidden: output of the last block, FP32 [..., hidden].
        final_norm: FP32 [hidden].
        head: FP32 [vocab, hidden].
        eps: of the norm.
    """
    return linear(rms_norm(hidden, final_norm, eps), head)
