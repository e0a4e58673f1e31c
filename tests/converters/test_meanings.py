"""A checkpoint means what transformers makes of it, or it is refused with the reason."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from converters import open_weights
from phi3quant import inspect
from phi3quant.errors import CheckpointError, ConfigError
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.converters.spoiled import (
    EMBEDDING,
    HEAD,
    IDS,
    QKV,
    Edit,
    configure,
    copy_of,
    difference_to_transformers,
    edit,
    put,
)
from tests.models import own_logits


def test_a_tied_model_with_another_head_uses_that_head_and_stays_untied(folder: Path) -> None:
    configure(folder, tie_word_embeddings=True)
    opened = open_weights(folder)
    assert difference_to_transformers(folder) < 1e-3
    assert not torch.equal(opened.head(), opened.embedding())
    assert any("differ" in note for note in opened.notes)
    made = quantize(folder, folder.parent / "out", Recipe("rtn"))
    (written,) = made.folders.values()
    assert json.loads((written / "config.json").read_text())["tie_word_embeddings"] is False
    assert torch.equal(open_weights(written).head(), opened.head().half().float())


def test_a_tied_model_with_an_equal_head_stays_tied(
    tmp_path: Path, checkpoint_folder: Callable[[str], Path]
) -> None:
    folder = copy_of(checkpoint_folder("tied"), tmp_path / "model")
    edit(folder, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    opened = open_weights(folder)
    assert opened.config.tie_word_embeddings
    assert not opened.notes


def test_a_single_bit_makes_a_head_different(
    tmp_path: Path, checkpoint_folder: Callable[[str], Path]
) -> None:
    folder = copy_of(checkpoint_folder("tied"), tmp_path / "model")

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[HEAD] = tensors[EMBEDDING].clone()
        tensors[HEAD][-1, -1] += 1

    edit(folder, change)
    assert not open_weights(folder).config.tie_word_embeddings
    assert difference_to_transformers(folder) < 1e-3


@pytest.mark.parametrize("shards_are_there", [True, False])
def test_a_single_file_wins_over_an_index(folder: Path, *, shards_are_there: bool) -> None:
    tensors = load_file(folder / "model.safetensors")
    shard = "model-00001-of-00001.safetensors"
    if shards_are_there:
        save_file({name: value * 0.5 for name, value in tensors.items()}, folder / shard)
    write_index(folder, dict.fromkeys(tensors, shard))
    assert difference_to_transformers(folder) < 1e-3
    assert any(note.startswith("both model.safetensors and") for note in open_weights(folder).notes)


def test_an_index_of_the_single_file_needs_no_note(folder: Path) -> None:
    write_index(folder, {QKV + "weight": "model.safetensors"})
    assert not open_weights(folder).notes


def test_shards_without_an_index_are_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    with pytest.raises(CheckpointError, match=r"it has model-00001-of-00001\.safetensors: add"):
        open_weights(folder)


def write_index(folder: Path, weight_map: Mapping[str, str]) -> None:
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)


LEFT_OVER: list[dict[str, Any]] = [
    {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    {},
    {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8}, "config_groups": {}},
]


@pytest.mark.parametrize("described", LEFT_OVER, ids=["bitsandbytes", "empty", "kv-cache"])
def test_plain_weights_are_read_in_spite_of_a_quantization_config(
    folder: Path, described: dict[str, Any]
) -> None:
    plain = own_logits(open_weights(folder), IDS)
    configure(folder, quantization_config=described)
    opened = open_weights(folder)
    assert torch.equal(own_logits(opened, IDS), plain)
    assert any("quantization_config" in note for note in opened.notes)
    made = quantize(folder, folder.parent / "out", Recipe("rtn"))
    assert open_weights(made.folders["compressed-tensors"]).format.startswith("compressed-tensors")


def test_a_transform_of_plain_weights_is_not_ignored(folder: Path) -> None:
    transform = {"config_groups": {"u": {"type": "hadamard"}}}
    described = {"quant_method": "compressed-tensors", "transform_config": transform}
    configure(folder, quantization_config=described)
    with pytest.raises(CheckpointError, match="transform_config"):
        open_weights(folder)


def renamed(change: Callable[[str], str]) -> Edit:
    def apply(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[change(name)] = tensors.pop(name)

    return apply


def emptied(tensors: dict[str, torch.Tensor]) -> None:
    tensors[QKV + "weight"] = torch.empty(0)


UNREAD: dict[str, tuple[Edit, str]] = {
    "lora": (put(QKV + "lora_A.default.weight", 8, 64), "LoRA.* not merged"),
    "base layer": (renamed(lambda n: n.replace("o_proj.", "o_proj.base_layer.")), "not merged"),
    "bias": (put(QKV + "bias", 128), "no biases"),
    "norm's bias": (put("model.norm.bias", 64), "no biases"),
    "layer": (put("model.layers.2.input_layernorm.weight", 64), "num_hidden_layers 2"),
    "classifier": (put("score.weight", 2, 64), "classifier or reward"),
    "reward": (put("v_head.summary.weight", 1, 64), "classifier or reward"),
    "vision": (put("model.vision_embed_tokens.x.weight", 4, 4), "vision or audio"),
    "scales": (put(QKV + "weight_scale", 128, 1), "quantized weights"),
    "unknown": (put("model.layers.0.self_attn.q_norm.weight", 16), "not part of a Phi-3 model"),
    "empty": (emptied, "ZeRO-3"),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_tensors_that_nothing_reads_are_refused_with_the_reason(folder: Path, kind: str) -> None:
    change, reason = UNREAD[kind]
    edit(folder, change)
    with pytest.raises(CheckpointError, match=reason):
        open_weights(folder)


@pytest.mark.parametrize(
    "name",
    ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"],
)
def test_buffers_of_old_libraries_pass(folder: Path, name: str) -> None:
    edit(folder, put(name, 8))
    assert not open_weights(folder).notes


def test_scales_of_a_cache_pass_with_a_note(folder: Path) -> None:
    edit(folder, put("model.layers.0.self_attn.k_scale", 1))
    assert any("cache" in note for note in open_weights(folder).notes)


def test_an_adapter_is_named_with_its_base(folder: Path) -> None:
    described = {"base_model_name_or_path": "some/base", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(described))
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="LORA adapter of some/base"):
        open_weights(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"LORA adapter of some/base.*use some/base with"):
        open_weights(folder)


def test_an_adapter_next_to_weights_is_not_applied_in_silence(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    assert any("not applied" in note for note in open_weights(folder).notes)


def test_notes_are_part_of_an_inspection(folder: Path) -> None:
    configure(folder, quantization_config={})
    assert inspect(folder).as_json()["notes"] == list(open_weights(folder).notes) != []


def test_a_genai_folder_without_config_says_what_it_lacks(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "genai_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"config\.json of the original model next to its genai"):
        open_weights(folder)
