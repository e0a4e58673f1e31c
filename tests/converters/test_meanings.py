"""A checkpoint means what transformers makes of it, or it is refused with the reason."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import load_file, save_file
from transformers import AwqConfig, Phi3ForCausalLM

from converters import open_weights
from phi3quant import inspect
from phi3quant.errors import CheckpointError, ConfigError, Phi3QuantError, SchemeError
from phi3quant.model.architecture import LINEARS, block_tensor_name
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.models import VOCABULARY, own_logits

QKV = "model.layers.0.self_attn.qkv_proj."
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
IDS = torch.randint(0, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(3))

Edit = Callable[[dict[str, torch.Tensor]], object]


@pytest.fixture
def folder(tmp_path: Path, checkpoint_folder: Callable[[str], Path]) -> Path:
    """A copy that a test may spoil."""
    return copy_of(checkpoint_folder("gqa"), tmp_path / "model")


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


def put(name: str, *shape: int) -> Edit:
    return lambda tensors: tensors.update({name: torch.ones(shape)})


def renamed(change: Callable[[str], str]) -> Edit:
    def apply(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[change(name)] = tensors.pop(name)

    return apply


def split(tensors: dict[str, torch.Tensor]) -> None:
    fused = tensors.pop(QKV + "weight")
    for letter, part in zip("qkv", torch.split(fused, [64, 32, 32]), strict=True):
        tensors[QKV.replace("qkv", letter) + "weight"] = part.clone()


def split_gate(tensors: dict[str, torch.Tensor]) -> None:
    fused = tensors.pop("model.layers.1.mlp.gate_up_proj.weight")
    for name, part in zip(("gate", "up"), fused.chunk(2), strict=True):
        tensors[f"model.layers.1.mlp.{name}_proj.weight"] = part.clone()


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
    "q, k, v": (split, "q_proj, k_proj and v_proj are stored separately"),
    "gate, up": (split_gate, "gate_proj and up_proj are stored separately"),
    "bare": (renamed(lambda name: name.removeprefix("model.")), r"lack 'model\.'"),
    "compiled": (renamed(lambda name: f"_orig_mod.{name}"), r"torch\.compile"),
    "parallel": (renamed(lambda name: f"module.{name}"), "DataParallel"),
    "peft": (renamed(lambda name: f"base_model.model.{name}"), "PEFT"),
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
    with pytest.raises(ConfigError, match=r"LORA adapter of some/base.*merge_and_unload"):
        open_weights(folder)


def test_an_adapter_next_to_weights_is_not_applied_in_silence(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    assert any("not applied" in note for note in open_weights(folder).notes)


def test_a_packed_model_with_another_head_than_it_ties_uses_that_head(folder: Path) -> None:
    pack(folder, by_index=False)
    configure(folder, tie_word_embeddings=True)
    opened = open_weights(folder)
    assert not torch.equal(opened.head(), opened.embedding())
    assert any("differ" in note for note in opened.notes)


def test_notes_are_part_of_an_inspection(folder: Path) -> None:
    configure(folder, quantization_config={})
    assert inspect(folder).as_json()["notes"] == list(open_weights(folder).notes) != []


def test_a_genai_folder_without_config_says_what_it_lacks(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "genai_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"config\.json of the original model next to its genai"):
        open_weights(folder)


WEIGHTS: dict[str, Any] = {
    "num_bits": 4,
    "type": "int",
    "symmetric": True,
    "strategy": "group",
    "group_size": 16,
    "dynamic": False,
}


def described(weights: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    described_weights = {**WEIGHTS, **(weights or {})}
    group = {"targets": ["Linear"], "weights": described_weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
        **changes,
    }


def pack(folder: Path, *, by_index: bool) -> None:
    """Codes as the compressed-tensors library packs them; ``folder``'s plain twin is ``dense``."""
    generator = torch.Generator().manual_seed(7)
    tensors = load_file(folder / "model.safetensors")
    dense = dict(tensors)
    for index in range(2):
        for key in LINEARS:
            name = block_tensor_name(index, key)
            rows, columns = tensors[name].shape
            groups = (torch.arange(columns) // 16).to(torch.int32)
            if by_index:
                groups = groups[torch.randperm(columns, generator=generator)]
            codes = torch.randint(-8, 8, (rows, columns), generator=generator).to(torch.int8)
            scales = (torch.rand(rows, columns // 16, generator=generator) * 0.02 + 0.01).half()
            dense[name] = dequantize(codes, scales, g_idx=groups if by_index else None).float()
            stem = name.removesuffix("weight")
            del tensors[name]
            tensors[stem + "weight_packed"] = pack_to_int32(codes, 4)
            tensors[stem + "weight_scale"] = scales
            tensors[stem + "weight_shape"] = torch.tensor([rows, columns])
            if by_index:
                tensors[stem + "weight_g_idx"] = groups
    copy_of(folder, folder.parent / "dense")
    save_file(dense, folder.parent / "dense" / "model.safetensors", metadata={"format": "pt"})
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    configure(folder, quantization_config=described({"actorder": "group"} if by_index else {}))


@pytest.mark.parametrize("by_index", [True, False])
def test_groups_of_columns_are_those_of_the_compressed_tensors_library(
    folder: Path, *, by_index: bool
) -> None:
    pack(folder, by_index=by_index)
    packed, dense = open_weights(folder), open_weights(folder.parent / "dense")
    for index in range(2):
        for key, weights in packed.block(index).items():
            assert torch.allclose(weights, dense.block(index)[key], atol=1e-4)


def test_codes_of_mapped_columns_are_not_exported_as_if_they_followed(folder: Path) -> None:
    pack(folder, by_index=True)
    packed: Any = open_weights(folder)
    with pytest.raises(SchemeError, match="weight_g_idx"):
        packed.quantized(0, "o_proj")


def test_a_map_of_columns_to_uneven_groups_is_refused(folder: Path) -> None:
    pack(folder, by_index=True)
    edit(folder, lambda tensors: tensors[QKV + "weight_g_idx"].zero_())
    with pytest.raises(CheckpointError, match="16 columns to each group"):
        open_weights(folder).block(0)


def test_a_map_that_the_config_does_not_announce_is_refused(folder: Path) -> None:
    pack(folder, by_index=True)
    configure(folder, quantization_config=described())
    with pytest.raises(CheckpointError, match=r"weight_g_idx.* doesn't describe"):
        open_weights(folder)


def test_another_weight_shape_is_refused(folder: Path) -> None:
    pack(folder, by_index=False)
    edit(folder, lambda tensors: tensors[QKV + "weight_shape"].add_(1))
    with pytest.raises(CheckpointError, match="weight_shape is"):
        open_weights(folder).block(0)


def test_a_matrix_that_is_left_plain_is_named(folder: Path) -> None:
    pack(folder, by_index=False)
    name = "model.layers.1.mlp.down_proj"
    edit(folder, put(f"{name}.weight", 64, 96))
    configure(folder, quantization_config=described(ignore=[name, "lm_head"]))
    with pytest.raises(CheckpointError, match=f"leaves {name} plain, as config.json lists it"):
        open_weights(folder)


KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "group of text": (described(config_groups={"a": "x"}), "must be an object with weights"),
    "groups": (described(config_groups=[1]), "no groups"),
    "weights": (described(config_groups={"a": {"weights": [1]}}), "must be an object with weights"),
    "size as text": (described({"group_size": "16"}), "group_size '16'"),
    "size as float": (described({"group_size": 16.0}), r"group_size 16\.0"),
    "symmetric as text": (described({"symmetric": "false"}), "symmetric"),
    "bits as bool": (described({"num_bits": True}), "num_bits"),
    "channel": (described({"strategy": "channel"}), "'channel' have group_size 16"),
    "actorder": (described({"actorder": "other"}), "actorder 'other'"),
    "dynamic": (described({"dynamic": True}), "dynamic True"),
    "kv cache": (described(kv_cache_scheme={"num_bits": 8}), "kv_cache_scheme"),
    "sparsity": (described(sparsity_config={"format": "sparse-24"}), "sparsity_config"),
    "transform": (described(transform_config={"config_groups": {"a": 1}}), "transform_config"),
    "unknown": (described(rotation="hadamard"), "the unknown key 'rotation'"),
    "unknown of weights": (described({"codebook": [1]}), "the unknown key 'codebook'"),
    "ignore": (described(ignore="lm_head"), "ignore 'lm_head'"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_that_changes_the_weights_is_refused_by_name(folder: Path, kind: str) -> None:
    quantization, message = KEYS[kind]
    pack(folder, by_index=False)
    configure(folder, quantization_config=quantization)
    with pytest.raises(SchemeError, match=message):
        open_weights(folder)


DENSE = {
    "format": "dense",
    "global_sparsity": 0.14,
    "registry_requires_subclass": False,
    "sparsity_structure": "unstructured",
}


def test_a_share_of_zeros_that_is_only_stated_changes_nothing(folder: Path) -> None:
    pack(folder, by_index=False)
    before = own_logits(open_weights(folder), IDS)
    configure(folder, quantization_config=described(sparsity_config=DENSE))
    assert torch.equal(own_logits(open_weights(folder), IDS), before)


# As the tools write it by default, of symmetric codes.
BY_TOOLS: dict[str, dict[str, Any]] = {
    "AutoAWQ": {"version": "gemm", "zero_point": True, "modules_to_not_convert": None},
    "GPTQModel": {
        "version": "gemm",
        "format": "gemm",
        "checkpoint_format": "gemm",
        "zero_point": False,
        "desc_act": False,
        "lm_head": False,
        "pack_dtype": "int32",
        "meta": {"quantizer": ["gptqmodel:5.0.0"]},
    },
    "AutoRound": {
        "version": "gemm",
        "zero_point": False,
        "sym": True,
        "data_type": "int",
        "act_bits": 16,
        "act_data_type": "float",
        "act_dynamic": True,
        "enable_norm_bias_tuning": False,
        "supported_types": ["Linear"],
        "quant_block_list": None,
        "super_bits": None,
        "autoround_version": "0.9.0",
        "provider": "auto-round",
        "modules_to_not_convert": ["lm_head"],
    },
    "transformers": AwqConfig(bits=4, group_size=16).to_dict(),
}


@pytest.mark.parametrize("tool", BY_TOOLS)
def test_awq_is_read_as_every_tool_describes_it(folder: Path, tool: str) -> None:
    recipe = Recipe("rtn", QuantScheme(4, 16), ("awq-gemm",))
    (made,) = quantize(folder, folder.parent / "out", recipe).folders.values()
    before = own_logits(open_weights(made), IDS)
    by_tool = {"quant_method": "awq", "bits": 4, "group_size": 16, **BY_TOOLS[tool]}
    configure(made, quantization_config=by_tool)
    assert torch.equal(own_logits(open_weights(made), IDS), before)


AWQ: dict[str, Any] = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 16}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zero_point": None}, "zero_point None"),
        ({"act_bits": 8}, "act_bits 8"),
        ({"rotation_configs": [{}]}, "rotation_configs"),
        ({"group_size": 16.0}, r"group_size 16\.0"),
        ({"group_size": "16"}, "group_size '16'"),
        ({"bits": 4.0}, r"4\.0 bits"),
        ({"desc_act": True}, "desc_act True"),
        ({"lm_head": True}, "lm_head True"),
        ({"pack_dtype": "int64"}, "pack_dtype 'int64'"),
        ({"dynamic": {"-:.*": {}}}, "dynamic"),
        ({"modules_to_not_convert": "x"}, "must be a list"),
        ({"surprise": 1}, "the unknown key 'surprise'"),
    ],
)
def test_awq_in_another_form_is_refused_by_key(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    pack(folder, by_index=False)
    configure(folder, quantization_config={**AWQ, **changes})
    with pytest.raises(SchemeError, match=message):
        open_weights(folder)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"bits": 4, "group_size": 64}, r"MLX \(bits and group_size"),
        ({"quant_method": "fp8"}, "FineGrainedFP8Config"),
        ({"quant_method": "bitsandbytes"}, r"dequantize\(\)"),
        ({"quant_method": ["gptq"]}, "gptq"),
        ({"x": 1}, "no quant_method"),
    ],
)
def test_other_quantizers_are_named_with_a_way_out(
    folder: Path, quantization: dict[str, Any], message: str
) -> None:
    pack(folder, by_index=False)
    configure(folder, quantization_config=quantization)
    with pytest.raises(Phi3QuantError, match=message):
        open_weights(folder)
