"""Memory of a running model, and the limit on its decoding speed."""

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
"""Types of a KV cache: values in a block, and bytes of a block."""

LLAMA_KV = ("f16", "q8_0", "q4_0")
"""Types of cache in llama.cpp."""

# Tokens of a prompt that llama.cpp computes at once.
_BATCH = 512
# Hidden states that its graph holds at once, according to its reports.
_HIDDEN_WIDTHS = 5
# Bytes of the runtimes themselves, least and most: code, vocabulary, graph.
_LLAMA_RUNTIME = (10_000_000, 60_000_000)
_ONNX_RUNTIME = (20_000_000, 130_000_000)
# onnxruntime rearranges codes, and transposes plain matrices, when it loads them. At Phi-3-mini's
# size with 2.5 GB of weights, 3.0 GB were dirty after 128 tokens.
_ONNX_COPY = 1.2


@dataclass(frozen=True)
class RunMemory:
    """Bytes in use with a full context.

    Attributes:
        context: tokens in the context.
        kv_type: type of the cache.
        weights: weights mapped from the file; clean, so the system can drop and reread them.
        touched: part of the weights that every token reads; other rows of an embedding are read
            when their token occurs.
        kv: cache of ``context`` tokens; dirty.
        kv_in_window: part of the cache inside the sliding window.
        buffers: buffers of the computation, least and most; dirty.
        runtime: memory of the runtime itself, least and most; dirty.
        copies: rearranged weights, at most; dirty. The mapped weights are then read only once.
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
        """Bytes that the system can't drop: least without, most with rearranged weights."""
        least = self.kv + self.buffers[0] + self.runtime[0]
        return least, self.kv + self.buffers[1] + self.runtime[1] + self.copies

    @property
    def needed(self) -> int:
        """Bytes needed to run well: weights or their copy, and the most of everything else."""
        return max(self.weights, self.copies) + self.kv + self.buffers[1] + self.runtime[1]

    @property
    def resident(self) -> tuple[int, int]:
        """Bytes that a system may show as resident; the most includes weights and copies."""
        return self.touched + self.dirty[0], self.weights + self.dirty[1]


def kv_bytes(config: Phi3Config, kv_type: str, tokens: int) -> int:
    """Bytes of the keys and values of ``tokens`` tokens.

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
    """Refuse a context that is longer than the model's.

    Raises:
        ConfigError: it is longer.
    """
    if context > config.max_position_embeddings:
        raise ConfigError(
            f"a context of {context:,} tokens is impossible: the model's config.json allows at "
            f"most {config.max_position_embeddings:,}"
        )


def run_memory(
    config: Phi3Config, artifact: Artifact, context: int, kv_type: str, options: OnnxOptions
) -> RunMemory:
    """Estimate the memory of an artifact in its usual runtime, for a batch of one.

    GGUF runs in llama.cpp, which maps weights and may rearrange those of blocks into a copy. ONNX
    runs in onnxruntime, whose cache has the io type and exists twice unless buffers are shared.
    Packed folders, which no runtime on phones reads, count as GGUF without rearranged weights.

    Args:
        config: configuration of the model.
        artifact: artifact of the model.
        context: tokens in the context.
        kv_type: a key of KV_TYPES; ignored for ONNX, which uses the io type.
        options: options of ONNX.

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
    """Longest context whose memory stays within ``limit`` bytes; 0 if there is none."""
    low, high = 0, config.max_position_embeddings
    while low < high:
        middle = (low + high + 1) // 2
        if run_memory(config, artifact, middle, kv_type, options).needed <= limit:
            low = middle
        else:
            high = middle - 1
    return low


def tokens_per_second(artifact: Artifact, memory: RunMemory, bandwidth: float) -> float:
    """Limit on decoding speed: every token must read the weights and the cache.

    Args:
        artifact: artifact that is decoded.
        memory: memory at the context; the runtime is assumed to read only the sliding window.
        bandwidth: bandwidth of the memory in bytes per second.
    """
    return bandwidth / (artifact.read_per_token + memory.kv_in_window)
