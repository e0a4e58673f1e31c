"""Checkpoints that a test changes, and transformers' opinion of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Phi3ForCausalLM

from converters import open_weights
from tests.models import VOCABULARY, own_logits

QKV = "model.layers.0.self_attn.qkv_proj."
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
IDS = torch.randint(0, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(3))

Edit = Callable[[dict[str, torch.Tensor]], object]


def copy_of(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def edit(folder: Path, change: Edit) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def difference_to_transformers(folder: Path) -> float:
    model = Phi3ForCausalLM.from_pretrained(folder, attn_implementation="eager").eval().float()
    with torch.no_grad():
        expected = model(IDS).logits
    return float((own_logits(open_weights(folder), IDS) - expected).abs().max())


def put(name: str, *shape: int) -> Edit:
    return lambda tensors: tensors.update({name: torch.ones(shape)})
