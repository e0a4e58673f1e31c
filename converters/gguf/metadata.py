"""Phi-3's configuration as GGUF metadata, and back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gguf import GGUFWriter, LlamaFileType

from converters.gguf.vocabulary import GgufVocabulary
from phi3quant.errors import CheckpointError
from phi3quant.model.config import LongRope, Phi3Config, shown

ARCHITECTURE = "phi3"
QUANTIZATION_VERSION = 2

_READ = (
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "block_count",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
)
_LENGTHS = ("attention.key_length", "attention.value_length")
_HARMLESS = ("vocab_size", "rope.scaling.finetuned")
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "rope.scaling.type": ("none", "longrope"),
    "rope.scaling.factor": (0.0, 1.0),
    "rope.scale_linear": (0.0, 1.0),
    "attention.scale": (0.0,),
    "attention.causal": (True,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "use_parallel_residual": (False,),
    "tensor_data_layout": ("Meta AI original pth", "reference"),
}
"""Keys that can change the model, with the values that don't."""


def add_config(writer: GGUFWriter, config: Phi3Config, number: LlamaFileType) -> None:
    """Write the model's sizes, under the same keys as llama.cpp's converter."""
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
    """Configuration described by a Phi-3 GGUF file.

    Args:
        fields: metadata of the file.
        vocab_size: rows of the embedding.
        tied: whether the file has no output matrix.
        factors: short and long factors of LongRoPE; None without LongRoPE.

    Raises:
        CheckpointError: the architecture is another one, or a key is missing or invalid.
    """
    architecture = fields.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise CheckpointError(
            f"its architecture is {architecture!r}, not {ARCHITECTURE!r}; "
            "phi3quant handles models of the Phi-3 architecture only"
        )

    _refuse_unread(fields)
    numbers = _Numbers(fields)
    hidden, heads = numbers.whole("embedding_length"), numbers.whole("attention.head_count")
    key_values = numbers.whole("attention.head_count_kv", heads)
    if hidden % heads or heads % key_values:
        raise CheckpointError(
            f"its sizes contradict each other: {heads} heads, {key_values} of them for keys and "
            f"values, and an embedding_length of {hidden}"
        )
    head_dim = hidden // heads
    for key in _LENGTHS:
        if numbers.whole(key, head_dim) != head_dim:
            raise CheckpointError(
                f"its key {ARCHITECTURE}.{key} is {numbers.whole(key)}, but its heads have "
                f"{head_dim} values (embedding_length / attention.head_count)"
            )
    context = numbers.whole("context_length")
    rotary = numbers.whole("rope.dimension_count", head_dim)
    if rotary > head_dim or rotary % 2:
        raise CheckpointError(f"its {rotary} rotated values don't fit heads of {head_dim}")
    return Phi3Config(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=numbers.whole("feed_forward_length"),
        num_hidden_layers=numbers.whole("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=key_values,
        head_dim=head_dim,
        max_position_embeddings=context,
        original_max_position_embeddings=numbers.whole(
            "rope.scaling.original_context_length", context
        ),
        rope_theta=numbers.real("rope.freq_base", 10000.0),
        rotary_dim=rotary,
        long_rope=_long_rope(numbers.real("rope.scaling.attn_factor", 1.0), rotary, factors),
        sliding_window=numbers.whole("attention.sliding_window", 0, least=0) or None,
        rms_norm_eps=numbers.real("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings=tied,
    )


@dataclass(frozen=True)
class _Numbers:
    """Access to a file's numeric keys."""

    fields: Mapping[str, Any]

    def whole(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        """Integer of at most 31 bits."""
        value = self.fields.get(f"{ARCHITECTURE}.{key}", default)
        if type(value) is not int or not least <= value < 1 << 31:
            raise CheckpointError(
                f"its key {ARCHITECTURE}.{key} is {shown(value)}, not an integer from {least} up"
            )
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """Positive number in FP32's range."""
        value = self.fields.get(f"{ARCHITECTURE}.{key}", default)
        if type(value) not in (int, float) or not _in_fp32(value):
            raise CheckpointError(
                f"its key {ARCHITECTURE}.{key} is {shown(value)}, not a positive number"
            )
        return float(value)


def _long_rope(
    attention_factor: float,
    rotary: int,
    factors: tuple[tuple[float, ...], tuple[float, ...]] | None,
) -> LongRope | None:
    if factors is None:
        if attention_factor != 1:
            raise CheckpointError(
                f"its key {ARCHITECTURE}.rope.scaling.attn_factor is {attention_factor:g}, but it "
                "has no rope factors"
            )
        return None
    short, long = factors
    if len(short) != rotary // 2 or len(long) != rotary // 2:
        raise CheckpointError(f"its rope factors don't match {rotary} rotated values")
    if not all(map(_in_fp32, (*short, *long))):
        raise CheckpointError("its rope factors are not all positive numbers")
    return LongRope(short, long, attention_factor)


def _in_fp32(value: float) -> bool:
    """Whether a number is positive and in FP32's normal range."""
    return 2.0**-126 <= value <= 2.0**127


def _refuse_unread(fields: Mapping[str, Any]) -> None:
    """Refuse keys of the architecture that are unknown or have values that aren't implemented."""
    prefix = f"{ARCHITECTURE}."
    for name, value in fields.items():
        key = name.removeprefix(prefix)
        if not name.startswith(prefix) or key in _READ or key in _HARMLESS or key in _LENGTHS:
            continue
        if key not in _FIXED:
            raise CheckpointError(f"its key {name} is unknown and may change the model")
        if isinstance(value, list) or value not in _FIXED[key]:
            raise CheckpointError(
                f"its key {name} is {shown(value)}, which isn't supported; it must be "
                f"{' or '.join(map(repr, _FIXED[key]))}"
            )
