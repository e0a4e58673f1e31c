"""Small Phi-3 checkpoints of every variant, made by transformers; and what a model says of ids."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Phi3Config, Phi3ForCausalLM

from phi3quant.model.decoder_block import logits
from phi3quant.model.predictor import final_states
from phi3quant.model.weights import ModelWeights

VOCABULARY = 320
_ORIGINAL = "original_max_position_embeddings"
_TEXT = [
    "The miller counted nineteen sacks before the river rose over the lower field.",
    "def area(width, height):\n    return width * height\n",
    "Where does the road to the harbour begin? It begins behind the old school.",
    '{"name": "lantern", "price": 12.5, "in_stock": true}',
]

BASE: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "original_max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sliding_window": None,
    # Wide enough that attention is not uniform and an error in it shows.
    "initializer_range": 0.2,
}


def long_rope(pairs: int) -> dict[str, Any]:
    """A rope_scaling section for heads that rotate ``pairs`` pairs."""
    return {
        "rope_type": "longrope",
        "short_factor": [1.0 + 0.1 * i for i in range(pairs)],
        "long_factor": [2.0 + 0.3 * i for i in range(pairs)],
    }


VARIANTS: Mapping[str, dict[str, Any]] = {
    "gqa": {},
    "mha": {"num_key_value_heads": 4},
    "window": {"sliding_window": 13},
    "tied": {"tie_word_embeddings": True},
    # The runtimes' attention rotates multiples of 16 values.
    "partial": {"hidden_size": 128, "partial_rotary_factor": 0.5},
    "longrope": {"rope_scaling": long_rope(8), "original_max_position_embeddings": 40},
}
"""Changes of each variant to BASE; heads have 16 values (partial: 32), so 8 pairs rotate."""


def make_model(folder: Path, *, seed: int = 0, **changes: Any) -> Phi3ForCausalLM:
    """Write a random FP32 checkpoint with a tokenizer into ``folder``; returns the model."""
    torch.manual_seed(seed)
    config = Phi3Config(**{**BASE, **changes}, attn_implementation="eager")
    model = Phi3ForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
    # Some input channels carry far more than others, as in trained models: what AWQ lives on.
    for layer in model.model.layers:
        layer.input_layernorm.weight.data[::7] *= 6
        layer.post_attention_layernorm.weight.data[::11] *= 6
    model.save_pretrained(folder)
    make_tokenizer(folder)
    return model


ROWS: Mapping[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Matrices of a Llama model whose rows make up a matrix of Phi-3."""


def split_matrices(tensors: dict[str, torch.Tensor], raw: Mapping[str, Any] = BASE) -> None:
    """Take the joined matrices of a checkpoint apart; ``raw`` is its config.json."""
    head = raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"]
    rows = dict.fromkeys(ROWS["gate_up_proj"], raw["intermediate_size"])
    rows |= dict.fromkeys(("k_proj", "v_proj"), raw["num_key_value_heads"] * head)
    rows["q_proj"] = raw["num_attention_heads"] * head
    for whole, parts in ROWS.items():
        for name in [each for each in tensors if f".{whole}." in each]:
            pieces = torch.split(tensors.pop(name), [rows[part] for part in parts])
            for part, values in zip(parts, pieces, strict=True):
                tensors[name.replace(whole, part)] = values.clone()


def split_copy(source: Path, folder: Path) -> Path:
    """Copy a checkpoint as a Llama model, with its joined matrices apart."""
    shutil.copytree(source, folder)
    raw = json.loads((source / "config.json").read_text())
    tensors = load_file(source / "model.safetensors")
    split_matrices(tensors, raw)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    kept = {key: raw[key] for key in raw if key not in ("sliding_window", _ORIGINAL)}
    kept |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


def make_tokenizer(folder: Path) -> None:
    """Write a byte-level BPE of VOCABULARY ids, with Phi-3's chat tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


def own_logits(model: ModelWeights, ids: torch.Tensor) -> torch.Tensor:
    """Logits by phi3quant for token ids [batch, positions]: FP32 [batch, positions, vocab]."""
    hidden = final_states(model, ids, lambda _steps: None)
    return logits(hidden, model.final_norm(), model.head(), model.config.rms_norm_eps)


PROSE = "\n\n".join(
    f"{line} Line {number} of the ledger was copied again by the clerk with the {word} pen."
    for number, (line, word) in enumerate(
        (line, word)
        for word in ("blue", "broken", "long", "borrowed", "silver", "second")
        for line in _TEXT
    )
)
"""Text for calibrating and scoring in tests: about 900 tokens of the tokenizer above or more."""
