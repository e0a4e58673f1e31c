"""The same weights under other names and model types have transformers' logits."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3ForCausalLM,
    PreTrainedModel,
)

from converters import open_weights
from phi3quant.errors import CheckpointError, ConfigError
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.converters.spoiled import IDS, QKV, configure, copy_of, edit, put
from tests.models import (
    BASE,
    long_rope,
    make_model,
    make_tokenizer,
    own_logits,
    split_copy,
    split_matrices,
)

Tensors = dict[str, torch.Tensor]
LLAMA = {key: BASE[key] for key in BASE if key != "sliding_window"}


@pytest.fixture
def folder(tmp_path: Path, checkpoint_folder: Callable[[str], Path]) -> Path:
    """A copy that a test may change."""
    return copy_of(checkpoint_folder("gqa"), tmp_path / "model")


def renamed(change: Callable[[str], str]) -> Callable[[Tensors], None]:
    def apply(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[change(name)] = tensors.pop(name)

    return apply


def compiled_layers(name: str) -> str:
    return name.replace(".self_attn.", "._orig_mod.self_attn.")


RENAMED: Mapping[str, Callable[[Tensors], None]] = {
    "q, k, v and gate, up apart": split_matrices,
    "bare decoder": renamed(lambda name: name.removeprefix("model.")),
    "torch.compile": renamed(lambda name: f"_orig_mod.{name}"),
    "torch.compile of layers": renamed(compiled_layers),
    "DataParallel": renamed(lambda name: f"module.{name}"),
    "DataParallel of compiled": renamed(lambda name: f"module._orig_mod.{name}"),
    "PEFT": renamed(lambda name: f"base_model.model.{name}"),
}


@pytest.mark.parametrize("kind", RENAMED)
def test_renamed_weights_are_the_same_weights(folder: Path, kind: str) -> None:
    plain = own_logits(open_weights(folder), IDS)
    edit(folder, RENAMED[kind])
    assert torch.equal(own_logits(open_weights(folder), IDS), plain)


@pytest.mark.parametrize("kind", ["torch.compile", "DataParallel of compiled", "PEFT"])
def test_a_wrapper_is_named_in_a_note(folder: Path, kind: str) -> None:
    edit(folder, RENAMED[kind])
    assert any("prefix" in note for note in open_weights(folder).notes)


def test_split_and_renamed_shards_are_joined_across_files(folder: Path) -> None:
    plain = own_logits(open_weights(folder), IDS)
    edit(folder, split_matrices)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards: dict[str, Tensors] = {"a.safetensors": {}, "b.safetensors": {}}
    for number, name in enumerate(sorted(tensors)):
        shards["ab"[number % 2] + ".safetensors"][f"module.{name}"] = tensors[name]
    for file, part in shards.items():
        save_file(part, folder / file)
    index = {name: file for file, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert torch.equal(own_logits(open_weights(folder), IDS), plain)


def test_two_names_of_one_tensor_are_refused(folder: Path) -> None:
    edit(folder, put(f"module.{QKV}weight", 128, 64))
    with pytest.raises(CheckpointError, match=r"qkv_proj\.weight twice"):
        open_weights(folder)


BAD_PARTS: Mapping[str, tuple[Callable[[Tensors], object], str]] = {
    "missing": (lambda t: t.pop(QKV.replace("qkv", "k") + "weight"), "no tensor .*k_proj"),
    "rows moved from k to v": (
        lambda t: t.update(
            {
                QKV.replace("qkv", "k") + "weight": torch.ones(16, 64),
                QKV.replace("qkv", "v") + "weight": torch.ones(48, 64),
            }
        ),
        r"k_proj.*shape \[16, 64\]; config.json calls for \[32, 64\]",
    ),
    "next to the joined": (put(QKV + "weight", 128, 64), "next to the qkv_proj"),
    "biased": (put(QKV.replace("qkv", "q") + "bias", 64), "no biases"),
    "empty": (put(QKV.replace("qkv", "q") + "weight", 0), "ZeRO-3"),
}


@pytest.mark.parametrize("kind", BAD_PARTS)
def test_parts_that_dont_make_a_whole_are_refused(folder: Path, kind: str) -> None:
    spoil, reason = BAD_PARTS[kind]
    edit(folder, split_matrices)
    edit(folder, spoil)
    with pytest.raises(CheckpointError, match=reason):
        open_weights(folder)


OTHER_TYPES: Mapping[str, tuple[type[PreTrainedModel], Any]] = {
    "llama": (LlamaForCausalLM, LlamaConfig(**LLAMA)),
    "llama, heads of another size": (LlamaForCausalLM, LlamaConfig(**LLAMA, head_dim=32)),
    "llama, theta": (LlamaForCausalLM, LlamaConfig(**LLAMA, rope_theta=250000.0)),
    "llama, tied": (LlamaForCausalLM, LlamaConfig(**LLAMA, tie_word_embeddings=True)),
    "llama, LongRoPE": (
        LlamaForCausalLM,
        LlamaConfig(
            **{key: LLAMA[key] for key in LLAMA if not key.startswith("original")},
            rope_parameters={
                **long_rope(8),
                "rope_theta": 10000.0,
                "original_max_position_embeddings": 16,
            },
        ),
    ),
    "mistral": (MistralForCausalLM, MistralConfig(**{**BASE, "sliding_window": None})),
    "mistral, window": (MistralForCausalLM, MistralConfig(**{**BASE, "sliding_window": 7})),
}


@pytest.mark.parametrize("kind", OTHER_TYPES)
@pytest.mark.parametrize("defaults", ["written", "left out"])
def test_llama_and_mistral_models_have_transformers_logits(
    tmp_path: Path, kind: str, defaults: str
) -> None:
    make, config = OTHER_TYPES[kind]
    torch.manual_seed(1)
    make(config).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text())
    if defaults == "left out":
        for key in ("rms_norm_eps", "rope_theta", "head_dim", "tie_word_embeddings"):
            if raw.get(key) == getattr(type(config)(), key, raw.get(key)) or raw.get(key) is None:
                raw.pop(key, None)
        if raw["model_type"] == "llama":
            raw["sliding_window"] = 5
    path.write_text(json.dumps(raw))
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = model(IDS).logits
    opened = open_weights(tmp_path)
    assert (own_logits(opened, IDS) - expected).abs().max() < 1e-4
    assert any(f"'{raw['model_type']}'" in note for note in opened.notes)


def test_defaults_of_mistral_are_not_those_of_phi3(tmp_path: Path) -> None:
    raw = {**{k: v for k, v in BASE.items() if "head" not in k}, "model_type": "mistral"}
    raw |= {"num_attention_heads": 16}
    del raw["sliding_window"], raw["max_position_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    make = MistralForCausalLM(MistralConfig.from_pretrained(tmp_path))
    make.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    config = open_weights(tmp_path).config
    assert (config.num_key_value_heads, config.sliding_window) == (8, 4096)
    assert (config.rms_norm_eps, config.max_position_embeddings) == (1e-6, 131072)


LAYER_TYPES = {"full": ["full_attention"] * 2, "windows": ["sliding_attention"] * 2, "null": None}


@pytest.mark.parametrize("kind", LAYER_TYPES)
@pytest.mark.parametrize("model_type", ["llama", "mistral", "phi3"])
def test_layer_types_have_the_meaning_of_transformers(
    folder: Path, model_type: str, kind: str
) -> None:
    # transformers reads Mistral models with layer_types as Ministral models.
    if model_type != "phi3":
        edit(folder, split_matrices)
    types = {"layer_types": LAYER_TYPES[kind], "sliding_window": 7, "head_dim": 16}
    configure(folder, model_type=model_type, rope_theta=10000.0, **types)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = model(IDS).logits
    opened = open_weights(folder)
    assert (own_logits(opened, IDS) - expected).abs().max() < 1e-4
    if model_type != "phi3":
        assert "layer_types" not in opened.config.raw


def test_layers_of_different_attention_are_refused(folder: Path) -> None:
    types = ["sliding_attention", "full_attention"]
    configure(folder, model_type="mistral", sliding_window=7, layer_types=types)
    with pytest.raises(ConfigError, match="layer_types"):
        open_weights(folder)


@pytest.mark.parametrize("model_type", ["phi3", "llama", "phi4mm"])
@pytest.mark.parametrize("value", [False, None])
def test_attention_in_both_directions_is_refused(
    folder: Path, model_type: str, value: object
) -> None:
    configure(folder, model_type=model_type, is_causal=value)
    with pytest.raises(ConfigError, match="is_causal is"):
        open_weights(folder)


def test_a_factor_of_longrope_counts_from_the_default_context(folder: Path) -> None:
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    del raw["original_max_position_embeddings"]
    raw |= {"rope_scaling": {**long_rope(8), "factor": 8.0}, "rope_parameters": None}
    path.write_text(json.dumps(raw))
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = model(IDS).logits
    assert (own_logits(open_weights(folder), IDS) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("rotation", ["linear", "dynamic", "yarn", "su", "llama3"])
def test_other_rotations_of_llama_are_refused_by_name(folder: Path, rotation: str) -> None:
    scaling = {"rope_type": rotation, "factor": 2.0, "short_factor": [1.0], "long_factor": [1.0]}
    configure(folder, model_type="llama", rope_scaling=scaling)
    with pytest.raises(ConfigError, match=f"type '{rotation}' isn't supported"):
        open_weights(folder)


@pytest.mark.parametrize("key", ["attention_bias", "mlp_bias"])
def test_biases_of_llama_are_refused(folder: Path, key: str) -> None:
    configure(folder, model_type="llama", **{key: True})
    with pytest.raises(ConfigError, match=f"{key} is true"):
        open_weights(folder)


@pytest.mark.parametrize("method", ["rtn", "awq"])
def test_a_split_llama_gives_the_same_bytes_as_its_joined_self(folder: Path, method: str) -> None:
    split = split_copy(folder, folder.parent / "split")
    outputs = []
    for source in (folder, split):
        out = quantize(source, source.parent / f"{source.name}-out", Recipe(method)).folders
        outputs.append((out["compressed-tensors"] / "model.safetensors").read_bytes())
        described = json.loads((out["compressed-tensors"] / "config.json").read_text())
        assert described["architectures"] == ["Phi3ForCausalLM"]
        reread = Phi3ForCausalLM.from_pretrained(out["compressed-tensors"])
        assert reread.config.rms_norm_eps == 1e-5
    assert outputs[0] == outputs[1]


VISION: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "phi3_v": ({"img_processor": {"name": "clip"}}, "model.vision_embed_tokens.wte.weight"),
    "phi4-siglip": ({"mm_projector_type": "mlp2x_gelu"}, "model.mm_projector.0.weight"),
    "phi4_multimodal": ({"vision_config": {}}, "model.embed_tokens_extend.x.weight"),
    "phi4mm": ({"audio_processor": {}}, "model.embed_tokens_extend.x.weight"),
}


@pytest.mark.parametrize("kind", VISION)
def test_the_text_part_of_a_multimodal_model_is_read_alone(folder: Path, kind: str) -> None:
    plain = own_logits(open_weights(folder), IDS)
    keys, name = VISION[kind]
    edit(folder, put(name, 8, 4))
    configure(folder, model_type=kind, **keys)
    opened = open_weights(folder)
    assert torch.equal(own_logits(opened, IDS), plain)
    assert any("is left out" in note and "1 tensor, 128 bytes" in note for note in opened.notes)
    assert not set(keys) & set(opened.config.raw)
    written = quantize(folder, folder.parent / "out", Recipe("rtn")).folders["compressed-tensors"]
    assert Phi3ForCausalLM.from_pretrained(written).config.model_type == "phi3"


def test_a_vision_tower_in_a_text_model_is_still_refused(folder: Path) -> None:
    edit(folder, put("model.vision_embed_tokens.wte.weight", 8, 4))
    with pytest.raises(CheckpointError, match="vision or audio"):
        open_weights(folder)


def test_an_unknown_part_of_a_multimodal_model_is_refused(folder: Path) -> None:
    edit(folder, put("model.depth_tower.weight", 8, 4))
    configure(folder, model_type="phi3_v")
    with pytest.raises(CheckpointError, match="depth_tower"):
        open_weights(folder)


def test_pickles_are_refused_with_a_command_that_converts_them(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    make_tokenizer(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="pickles") as caught:
        open_weights(tmp_path)
    command = str(caught.value).split("by: ")[1]
    assert command.startswith("python -c '")
    code = command.removeprefix("python -c '").removesuffix("'").replace("'\"'\"'", "'")
    exec(code, {})  # noqa: S102 - the command of the message, as a user would run it
    with torch.no_grad():
        expected = model(IDS).logits
    assert (own_logits(open_weights(tmp_path), IDS) - expected).abs().max() < 1e-4
