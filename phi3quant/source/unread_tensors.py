"""Tensors in a model's files that the model doesn't read: harmless, explained or unknown.

Tensors that transformers reports as unexpected and drops may change the model: an unmerged adapter,
biases, additional layers. They are refused with the reason.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from phi3quant.errors import CheckpointError
from phi3quant.model.config import Phi3Config

_HARMLESS = re.compile(
    r"(.*\.)?(rotary_emb\.(\w+_)?(inv_freq|cached)|inv_freq|position_ids|masked_bias)"
)
"""Buffers that older library versions saved; they can be computed from the configuration."""

_KV_SCALES = re.compile(r".*\.(k|v|q|attn|kv)_scale|.*\.(k|v)_proj\.output_scale")
_KV_NOTE = "scales of a quantized KV cache are stored with the model; the cache is not quantized"

_REASONS: Mapping[str, str] = {
    r"(^|\.)(lora_|vera_|ia3_|hada_|oft_|boft_)|\.base_layer\.|\.modules_to_save\.": (
        "an adapter (LoRA) is not merged into the weights; merge it with PEFT's "
        "merge_and_unload and save the model again"
    ),
    r"\.self_attn\.[qkv]_proj\.weight$": (
        "q_proj, k_proj and v_proj are stored next to the qkv_proj that has their rows; save the "
        "model without one or the other"
    ),
    r"\.mlp\.(gate|up)_proj\.weight$": (
        "gate_proj and up_proj are stored next to the gate_up_proj that has their rows; save the "
        "model without one or the other"
    ),
    r"\.(absmax|quant_map|nested_\w+|quant_state\..*|SCB|weight_format)$": (
        "the weights are quantized by bitsandbytes; dequantize them and save the model in BF16"
    ),
    r"\.(qweight|qzeros|scales|g_idx|biases|weight_packed|weight_shape|weight_zero_point"
    r"|weight_g_idx|weight_(global_)?scale(_inv)?|weight_scale_inv|input_(global_)?scale"
    r"|input_zero_point|output_scale|output_zero_point)$": (
        "it belongs to quantized weights that config.json doesn't describe in this form; "
        "dequantize them and save the model in BF16, or use the original checkpoint"
    ),
    r"\.bias$": "Phi-3 has no biases, so the bias would be lost",
    r"^(model\.)?(score|classifier|classification_head|v_head|value_head|reward_head|summary"
    r"|qa_outputs|regression_head)\.": (
        "it is the head of a classifier or reward model; only language models can be quantized"
    ),
    r"(^|\.)(vision|visual|image|img_|audio|embed_tokens_extend|multi_modal|mm_projector)": (
        "it is part of a vision or audio tower; only text models can be read"
    ),
}
"""Patterns to search in names, in this order, each with the reason for the tensor's presence."""

_LAYER = re.compile(r"model\.layers\.(\d+)\.")


def refuse_explained(
    folder: Path, names: Collection[str], known: Collection[str], config: Phi3Config
) -> None:
    """Refuse tensors outside the model whose presence has a known reason.

    This check precedes the one for missing tensors, because such tensors often explain them.

    Raises:
        CheckpointError: there is such a tensor; the message gives the reason.
    """
    for name, reason in _unread(names, known, config):
        if reason is not None:
            more = sum(other == reason for _, other in _unread(names, known, config)) - 1
            others = f" and {more} more" if more else ""
            raise CheckpointError(f"{folder} has tensor {name}{others}: {reason}")


def refuse_unread(
    folder: Path, names: Collection[str], known: Collection[str], config: Phi3Config
) -> tuple[str, ...]:
    """Refuse every tensor outside the model, unless it is harmless.

    Returns:
        Notes on tensors that are ignored.

    Raises:
        CheckpointError: there is such a tensor; the message names the first.
    """
    unread = [name for name, _ in _unread(names, known, config)]
    if unread:
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        raise CheckpointError(
            f"{folder} has tensor {unread[0]}{more}, which is not part of a Phi-3 model of "
            f"{config.num_hidden_layers} layers; if it isn't needed, save the model without it"
        )
    return (_KV_NOTE,) if any(map(_KV_SCALES.fullmatch, names)) else ()


def _unread(
    names: Collection[str], known: Collection[str], config: Phi3Config
) -> Iterator[tuple[str, str | None]]:
    """Tensors outside the model, each with the reason for its presence; None if unknown."""
    for name in sorted(set(names) - set(known)):
        if not _HARMLESS.fullmatch(name) and not _KV_SCALES.fullmatch(name):
            yield name, _reason(name, config)


def _reason(name: str, config: Phi3Config) -> str | None:
    layer = _LAYER.match(name)
    if layer is not None and int(layer[1][:9]) >= config.num_hidden_layers:
        return (
            f"config.json has num_hidden_layers {config.num_hidden_layers}, but the files have more"
        )
    for pattern, reason in _REASONS.items():
        if re.search(pattern, name):
            return reason
    return None
