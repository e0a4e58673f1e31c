"""Memory that a model takes while it runs, and how fast it can decode at most."""

from collections.abc import Mapping
from dataclasses import dataclass

from converters.onnx.options import FLOATS, OnnxOptions
from phi3quant.disk.tensor_plan import ITEM_BYTES
from phi3quant.errors import ConfigError, SchemeError
from phi3quant.estimating.artifact import GGUF, ONNX, Artifact
from phi3quant.model.config import Phi3Config

KV_TYPES: Mapping[str, tuple[int, int]] = {
    "f32": (1, 4),
    "f16": (1, 2),
    "q8_0": (32, 34),
    "q4_0": (32, 18),
}
"""Types of a KV cache: so many values in so many bytes."""

LLAMA_KV = ("f16", "q8_0", "q4_0")
"""What llama.cpp can keep its cache in."""

# llama.cpp computes so many tokens of a prompt at once.
_BATCH = 512
# Widths of hidden states that its graph holds at once, found by its own reports.
_HIDDEN_WIDTHS = 5
# Of the runtime itself: code, vocabulary, graph.
_LLAMA_RUNTIME = (10_000_000, 60_000_000)
_ONNX_RUNTIME = (20_000_000, 130_000_000)
# onnxruntime rearranges codes, and turns plain matrices, when it loads them: at Phi-3-mini's size,
# 3.0 GB were dirty after 128 tokens with 2.5 GB of weights.
_ONNX_COPY = 1.2


@dataclass(frozen=True)
class RunMemory:
    """Bytes in use at a context.

    Attributes:
        context: tokens.
        kv_type: of the cache.
        weights: mapped from the file, so that the system can drop and read them again (clean).
        touched: what of them every token reads; other rows of an embedding are read when their
            token comes up.
        kv: the cache of ``context`` tokens; dirty.
        kv_in_window: what of it a sliding window looks at.
        buffers: for computing, least and most; dirty.
        runtime: the runtime's own, least and most; dirty.
        copies: most that rearranged weights take, dirty; mapped ones are then read only once.
    """

    context: int
    kv_type: str
    weights: int
    touched: int
    kv: int
    kv_in_window: int
    buffers: tuple[int, int]
    runtime: tuple[int, int]
    copies: int

    @property
    def dirty(self) -> tuple[int, int]:
        """What the system can't drop: least without, most with rearranged weights."""
        least = self.kv + self.buffers[0] + self.runtime[0]
        return least, self.kv + self.buffers[1] + self.runtime[1] + self.copies

    @property
    def needed(self) -> int:
        """What must be there to run well: weights or their copy once, all else at its most."""
        return max(self.weights, self.copies) + self.kv + self.buffers[1] + self.runtime[1]

    @property
    def resident(self) -> tuple[int, int]:
        """What a system may show as resident: at most, weights and copies both."""
        return self.touched + self.dirty[0], self.weights + self.dirty[1]


def kv_bytes(config: Phi3Config, kv_type: str, tokens: int) -> int:
    """Bytes of the keys and values of so many tokens.

    Raises:
        SchemeError: heads aren't a whole number of the type's blocks.
    """
    values, size = KV_TYPES[kv_type]
    if config.head_dim % values:
        raise SchemeError(
            f"a {kv_type} cache holds blocks of {values} values, and heads have {config.head_dim}; "
            "choose f16"
        )
    per_token = 2 * config.num_hidden_layers * config.key_value_rows // values * size
    return tokens * per_token


def check_context(config: Phi3Config, context: int) -> None:
    """Refuse a context that the model doesn't have.

    Raises:
        ConfigError: it is longer than the model's.
    """
    if context > config.max_position_embeddings:
        raise ConfigError(
            f"a context of {context:,} tokens is impossible: the model's config says "
            f"{config.max_position_embeddings:,} at most"
        )


def run_memory(
    config: Phi3Config, artifact: Artifact, context: int, kv_type: str, options: OnnxOptions
) -> RunMemory:
    """Memory of an artifact in its usual runtime, batch of one.

    GGUF: llama.cpp, which maps weights and may rearrange those of its blocks into a copy. ONNX:
    onnxruntime, whose cache is of the io type, and there twice unless buffers are shared. Packed
    folders: as GGUF with nothing rearranged, for want of a runtime on phones.

    Args:
        config: the model's sizes.
        artifact: of it.
        context: tokens.
        kv_type: a key of KV_TYPES; of ONNX it is the io type's whatever is asked.
        options: of ONNX.

    Raises:
        ConfigError: as check_context.
        SchemeError: as kv_bytes.
    """
    check_context(config, context)
    is_onnx = artifact.format == ONNX
    if is_onnx:
        kv_type = FLOATS[options.io].lower()
    kv = kv_bytes(config, kv_type, context)
    window = min(context, config.sliding_window or context)
    item = ITEM_BYTES[FLOATS[options.io]] if is_onnx else 4
    batch = min(_BATCH, context) * item
    hidden = batch * _HIDDEN_WIDTHS * config.hidden_size
    scores = batch * (config.num_attention_heads + 1) * context
    logits = batch * config.vocab_size
    if is_onnx:
        wide = 4 * batch * config.intermediate_size
        most = hidden + wide + scores + 2 * logits + kv
        copies = int(_ONNX_COPY * artifact.nbytes)
        runtime = _ONNX_RUNTIME
    else:
        most = hidden + max(scores, logits)
        copies = artifact.rearranged if artifact.format == GGUF else 0
        runtime = _LLAMA_RUNTIME
    least = _HIDDEN_WIDTHS * config.hidden_size * item
    return RunMemory(
        context=context,
        kv_type=kv_type,
        weights=artifact.nbytes,
        touched=artifact.read_per_token,
        kv=kv,
        kv_in_window=kv_bytes(config, kv_type, window),
        buffers=(least, most),
        runtime=runtime,
        copies=copies,
    )


def largest_context(
    config: Phi3Config, artifact: Artifact, limit: int, kv_type: str, options: OnnxOptions
) -> int:
    """The longest context whose memory stays within ``limit`` bytes; 0 if none does."""
    low, high = 0, config.max_position_embeddings
    while low < high:
        middle = (low + high + 1) // 2
        if run_memory(config, artifact, middle, kv_type, options).needed <= limit:
            low = middle
        else:
            high = middle - 1
    return low


def tokens_per_second(artifact: Artifact, memory: RunMemory, bandwidth: float) -> float:
    """No decoding is faster than its weights and cache can be read.

    Args:
        artifact: whose weights.
        memory: at which context; a sliding window is taken for honoured.
        bandwidth: bytes a second.
    """
    return bandwidth / (artifact.read_per_token + memory.kv_in_window)
