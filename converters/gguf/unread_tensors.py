"""Refusal of tensors in a GGUF file that the model doesn't use, with the reason."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from converters.gguf.file import GgufModel
from phi3quant.errors import CheckpointError
from phi3quant.model.config import Phi3Config

_REASONS: Mapping[str, str] = {
    r"\.bias$": "Phi-3 has no biases, so it would be ignored",
    r"\.lora_[ab]$": "it belongs to a LoRA adapter; merge the adapter into its model first",
    r"^rope_freqs\.": "it holds factors of a kind of RoPE that Phi-3 doesn't have",
    r"^rope_factors_": "LongRoPE has long and short factors, and one of the two is missing",
    r"^(v|mm|a)\.": "it belongs to a vision or audio tower; only text models can be read",
    r"^blk\.\d+\.attn_(q|k|v|qkv)\.": "the block has the attention's matrix both fused and split",
    r"^blk\.\d+\.ffn_(gate|up)\.": "the block has the gate's matrix both fused and split",
    r"^(cls|cls_out)\.": "it is the head of a classifier; only language models can be read",
}
"""Reasons by a pattern that is searched in the tensor's name; the first match counts."""

_BLOCK = re.compile(r"blk\.(\d+)\.")


def refuse_unread(path: Path, model: GgufModel, config: Phi3Config, known: Collection[str]) -> None:
    """Refuse unused tensors: the file doesn't hold the model that its metadata describes.

    Raises:
        CheckpointError: there is one; the message has its name and the reason.
    """
    unread = sorted(set(model.tensors) - set(known))
    if unread:
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        raise CheckpointError(
            f"{path} has tensor {unread[0]}{more}: {_reason(unread[0], config.num_hidden_layers)}"
        )


def _reason(name: str, blocks: int) -> str:
    block = _BLOCK.match(name)
    if block is not None and int(block[1][:9]) >= blocks:
        return f"the file has more blocks than its metadata's block_count, {blocks}"
    for pattern, reason in _REASONS.items():
        if re.search(pattern, name):
            return reason
    return "it is not part of a Phi-3 model and would be ignored"
