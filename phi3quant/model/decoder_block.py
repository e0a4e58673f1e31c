"""Phi-3's computation as plain functions over one block's tensors.

Nothing here holds weights: a caller brings one block at a time, so the model is never in memory
as a whole. Checked against transformers' Phi3ForCausalLM in tests/model/test_decoder_block.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from phi3quant.model.architecture import Block
from phi3quant.model.config import Phi3Config
from phi3quant.model.kv_cache import LayerCache
from phi3quant.model.rope import RopeTables, rope_tables, rotate

Multiply = Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]
"""Computes a linear from its name (layout.LINEARS), input [batch, positions, in] and weight."""


@dataclass(frozen=True)
class SequenceContext:
    """What every block needs to know of the sequences: depends on their length alone.

    With a cache, of the positions that are new.
    """

    config: Phi3Config
    rope: RopeTables
    mask: torch.Tensor | None
    """bool [positions, keys], True where a query sees a key; None: see ``causal``."""
    causal: bool = True
    """Without a mask: whether queries see no later keys, or all of them."""


def sequence_context(config: Phi3Config, length: int, start: int = 0) -> SequenceContext:
    """Rotary tables and attention mask for sequences of ``length`` tokens.

    Args:
        config: the model's.
        length: tokens, those in the cache included.
        start: tokens in the cache; the tables and the mask's rows are of the others.
    """
    tables = rope_tables(config, length)
    new = RopeTables(tables.cos[start:], tables.sin[start:])
    mask = sliding_mask(config.sliding_window, length, start)
    return SequenceContext(config, new, mask, causal=not start)


def sliding_mask(window: int | None, length: int, start: int = 0) -> torch.Tensor | None:
    """A causal mask in which each position sees itself and the ``window - 1`` before it.

    None when the window is no shorter than the sequence and the first positions are among the
    queries, or the last one is the only query: then faster paths are taken.

    Args:
        window: tokens; None: all.
        length: positions of keys.
        start: the first of the queries.
    """
    window = length if window is None else window
    if window >= length and start in (0, length - 1):
        return None
    distance = torch.arange(start, length)[:, None] - torch.arange(length)[None, :]
    return (distance >= 0) & (distance < window)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square normalisation over the last axis (Zhang and Sennrich, 2019), in FP32."""
    return functional.rms_norm(x, (x.shape[-1],), weight, eps)


def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``x @ weight.T`` in the dtype of ``weight``; the result is FP32.

    A BF16 weight asks for BF16 products, which the CPU sums in FP32.
    """
    if weight.dtype == x.dtype:
        return functional.linear(x, weight)
    return functional.linear(x.to(weight.dtype), weight).to(x.dtype)


def multiply(_name: str, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``linear``, whichever it is."""
    return linear(x, weight)


def embed(embedding: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Hidden states [batch, positions, hidden] of token ids [batch, positions]."""
    return functional.embedding(ids, embedding)


def decoder_block(
    block: Block,
    context: SequenceContext,
    hidden: torch.Tensor,
    product: Multiply = multiply,
    cache: LayerCache | None = None,
) -> torch.Tensor:
    """One decoder block: attention and gated MLP, each with its norm and residual.

    Args:
        block: the block's tensors, FP32 (matrices may be BF16).
        context: for the length of these sequences.
        hidden: FP32 [batch, positions, hidden].
        product: what computes the four linears, for those who watch or change them.
        cache: keys and values of the tokens before these, to which theirs are added.

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
    """The MLP's activation of fused rows [..., gate|up]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return up * functional.silu(gate)


def attention(
    qkv: torch.Tensor, context: SequenceContext, cache: LayerCache | None = None
) -> torch.Tensor:
    """Causal attention over fused rows [batch, positions, q|k|v]; gives [batch, positions, q]."""
    config = context.config
    sections = [config.query_rows, config.key_value_rows, config.key_value_rows]
    query, key, value = (
        part.view(*part.shape[:2], -1, config.head_dim).transpose(1, 2)
        for part in torch.split(qkv, sections, dim=-1)
    )
    query, key = rotate(query, context.rope), rotate(key, context.rope)
    if cache is not None:
        key, value = cache.extend(key, value)
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
    """Scores [..., vocab] of the next token from the last block's output [..., hidden]."""
    return linear(rms_norm(hidden, final_norm, eps), head)
