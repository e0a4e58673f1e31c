"""Names of Phi-3's tensors in llama.cpp."""

from collections.abc import Mapping

from phi3quant.model.architecture import EMBEDDING, FINAL_NORM, HEAD, LINEARS, block_tensor_name

ROPE_LONG, ROPE_SHORT = "rope_factors_long.weight", "rope_factors_short.weight"

_OUTER: Mapping[str, str] = {EMBEDDING: "token_embd", FINAL_NORM: "output_norm", HEAD: "output"}
_IN_BLOCK: Mapping[str, str] = {
    "input_layernorm": "attn_norm",
    "qkv_proj": "attn_qkv",
    "o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "gate_up_proj": "ffn_up",
    "down_proj": "ffn_down",
}


def outer_name(name: str) -> str:
    """Name of architecture.EMBEDDING, FINAL_NORM or HEAD."""
    return f"{_OUTER[name]}.weight"


def block_name(index: int, key: str) -> str:
    """Name of tensor ``key`` (architecture.BLOCK_TENSORS) of block ``index``."""
    return f"blk.{index}.{_IN_BLOCK[key]}.weight"


def gguf_name(name: str) -> str:
    """Name of a matrix in llama.cpp, given its name in the checkpoint."""
    if name in (EMBEDDING, HEAD):
        return outer_name(name)
    index = int(name.split(".")[2])
    key = next(key for key in LINEARS if block_tensor_name(index, key) == name)
    return block_name(index, key)
