"""Phi-3's configuration as GGUF metadata, and back."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from gguf import GGUFWriter, LlamaFileType

from converters.gguf_vocabulary import GgufVocabulary
from phi3quant.config import LongRope, Phi3Config
from phi3quant.errors import CheckpointError

ARCHITECTURE = "phi3"
QUANTIZATION_VERSION = 2


def add_config(writer: GGUFWriter, config: Phi3Config, number: LlamaFileType) -> None:
    """Write the model's sizes; the keys are those of llama.cpp's own converter."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.rotary_dim)
    writer.add_rope_freq_base(config.rope_theta)
    # Older runtimes refuse a file without this key; 0 means no window.
    writer.add_sliding_window(config.sliding_window or 0)
    writer.add_file_type(number)
    writer.add_quantization_version(QUANTIZATION_VERSION)
    if config.long_rope is not None:
        writer.add_rope_scaling_attn_factors(config.long_rope.attention_factor)


def add_vocabulary(writer: GGUFWriter, vocabulary: GgufVocabulary) -> None:
    """Write the tokenizer section."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    if vocabulary.scores is not None:
        writer.add_token_scores(list(vocabulary.scores))
    writer.add_token_types([int(kind) for kind in vocabulary.types])
    if vocabulary.merges is not None:
        writer.add_token_merges(list(vocabulary.merges))
    adders: Mapping[str, Callable[[int], None]] = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id,
        "eot": writer.add_eot_token_id,
    }
    for role, number in vocabulary.special.items():
        adders[role](number)
    for role, value in vocabulary.adds.items():
        {"bos": writer.add_add_bos_token, "eos": writer.add_add_eos_token}[role](value)
    if vocabulary.space_prefix is not None:
        writer.add_add_space_prefix(vocabulary.space_prefix)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)


def parse_metadata(
    fields: Mapping[str, Any],
    vocab_size: int,
    *,
    tied: bool,
    factors: tuple[tuple[float, ...], tuple[float, ...]] | None,
) -> Phi3Config:
    """The configuration that a Phi-3 GGUF file describes.

    Args:
        fields: its metadata.
        vocab_size: rows of its embedding.
        tied: whether it lacks an output matrix.
        factors: LongRoPE's short and long factors, if it has them.

    Raises:
        CheckpointError: another architecture, or a key is missing or absurd.
    """
    architecture = fields.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise CheckpointError(
            f"its architecture is {architecture!r}, not {ARCHITECTURE!r}; "
            "phi3quant handles models of the Phi-3 architecture only"
        )

    def whole(key: str, default: int | None = None, *, least: int = 1) -> int:
        value = fields.get(f"{ARCHITECTURE}.{key}", default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 31:
            raise CheckpointError(f"its key {ARCHITECTURE}.{key} is {value!r}, no sensible number")
        return value

    def real(key: str, default: float | None = None) -> float:
        value = fields.get(f"{ARCHITECTURE}.{key}", default)
        if not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
            raise CheckpointError(f"its key {ARCHITECTURE}.{key} is {value!r}, no sensible number")
        return float(value)

    hidden, heads = whole("embedding_length"), whole("attention.head_count")
    key_values = whole("attention.head_count_kv", heads)
    if hidden % heads or heads % key_values:
        raise CheckpointError(
            f"its {heads} heads, {key_values} of them key-value, don't divide {hidden} values"
        )
    context = whole("context_length")
    original = whole("rope.scaling.original_context_length", context)
    window = whole("attention.sliding_window", 0, least=0)
    head_dim = hidden // heads
    rotary = whole("rope.dimension_count", head_dim)
    if rotary > head_dim or rotary % 2:
        raise CheckpointError(f"its {rotary} rotated values don't fit heads of {head_dim}")
    long_rope = None
    if factors is not None:
        short, long = factors
        if len(short) != rotary // 2 or len(long) != rotary // 2:
            raise CheckpointError(f"its rope factors don't match {rotary} rotated values")
        factor = real("rope.scaling.attn_factor", 1.0)
        long_rope = LongRope(short, long, factor)
    return Phi3Config(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=whole("feed_forward_length"),
        num_hidden_layers=whole("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=key_values,
        head_dim=head_dim,
        max_position_embeddings=context,
        original_max_position_embeddings=original,
        rope_theta=real("rope.freq_base", 10000.0),
        rotary_dim=rotary,
        long_rope=long_rope,
        sliding_window=window or None,
        rms_norm_eps=real("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings=tied,
    )
