"""Configuration of a model for a fixed length of context."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from phi3quant.errors import ConfigError
from phi3quant.model.config import LongRope, Phi3Config
from phi3quant.model.dialects import ROPE_SECTIONS

_ORIGINAL = "original_max_position_embeddings"


def fixed_context(config: Phi3Config, tokens: int) -> Phi3Config:
    """The configuration with a context of ``tokens`` and a single set of LongRoPE factors.

    Runtimes choose between short and long factors by different rules: transformers by the length
    of the text, llama.cpp by the size of the context that it was started with. With one set there
    is no choice. It is the set that transformers uses for a text of ``tokens`` tokens.

    Args:
        config: configuration of the model.
        tokens: length of the context.

    Raises:
        ConfigError: the model's own context is shorter.
    """
    if not 1 <= tokens <= config.max_position_embeddings:
        raise ConfigError(
            f"a context of {tokens:,} tokens is impossible; the model allows 1 to "
            f"{config.max_position_embeddings:,}"
        )
    raw: dict[str, Any] = {**config.raw, "max_position_embeddings": tokens}
    if config.long_rope is None:
        original = min(tokens, config.original_max_position_embeddings)
        return replace(
            config,
            max_position_embeddings=tokens,
            original_max_position_embeddings=original,
            raw={**raw, _ORIGINAL: original} if _ORIGINAL in raw else raw,
        )
    is_long = tokens > config.original_max_position_embeddings
    rope = config.long_rope
    factors = rope.long_factor if is_long else rope.short_factor
    raw[_ORIGINAL] = tokens
    for key in ROPE_SECTIONS:
        if isinstance(raw.get(key), Mapping) and raw[key]:
            raw[key] = _section(raw[key], factors, rope.attention_factor, tokens)
    return replace(
        config,
        max_position_embeddings=tokens,
        original_max_position_embeddings=tokens,
        long_rope=LongRope(factors, factors, rope.attention_factor),
        raw=raw,
    )


def _section(
    section: Mapping[str, Any], factors: tuple[float, ...], attention: float, tokens: int
) -> dict[str, Any]:
    changed = {
        **section,
        "short_factor": list(factors),
        "long_factor": list(factors),
        # Otherwise it is computed from the two lengths, which are equal now.
        "attention_factor": attention,
    }
    if _ORIGINAL in section:
        changed[_ORIGINAL] = tokens
    return changed
