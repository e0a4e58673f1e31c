"""Tensors of a GGUF file that no part of the model reads, refused with the reason."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from converters.gguf.file import GgufModel
from phi3quant.errors import CheckpointError
from phi3quant.model.config import Phi3Config

_REASONS: Mapping[str, str] = {
    r"\.bias$": "Phi-3 has no biases, and it would be left out",
    r"\.lora_[ab]$": "an adapter (LoRA), not a model; merge it into its model first",
    r"^rope_freqs\.": "factors of a RoPE that Phi-3 doesn't have",
    r"^rope_factors_": "LongRoPE has long and short factors, and one of them is missing",
    r"^(v|mm|a)\.": "part of a vision or audio tower; models of more than text can't be read",
    r"^blk\.\d+\.attn_(q|k|v|qkv)\.": "the block has the attention's matrix fused and apart",
    r"^blk\.\d+\.ffn_(gate|up)\.": "the block has the gate's matrix fused and apart",
    r"^(cls|cls_out)\.": "the head of a classifier; only language models can be read",
}
"""Patterns that are searched in names, in this order, with the reason why the tensor is there."""

_BLOCK = re.compile(r"blk\.(\d+)\.")


def refuse_unread(path: Path, model: GgufModel, config: Phi3Config, known: Collection[str]) -> None:
    """Refuse tensors that nothing reads: the file holds another model than its metadata says.

    Raises:
        CheckpointError: there is one; the message names it, with the reason if it is known.
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
        return f"its metadata has a block_count of {blocks}, and the file more"
    for pattern, reason in _REASONS.items():
        if re.search(pattern, name):
            return reason
    return "it is not part of a Phi-3 model, and would be left out"
