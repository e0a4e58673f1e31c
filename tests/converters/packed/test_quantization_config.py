"""Packed checkpoints by other tools: every key of quantization_config is applied or refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import load_file, save_file
from transformers import AwqConfig

from converters import open_weights
from phi3quant.errors import CheckpointError, Phi3QuantError, SchemeError
from phi3quant.model.architecture import LINEARS, block_tensor_name
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.export import export_gguf
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.converters.spoiled import IDS, QKV, configure, copy_of, edit, put
from tests.models import own_logits

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
    with pytest.raises(SchemeError, match="weight_g_idx"):
        export_gguf(folder, folder.parent / "out")


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


PLAIN = "model.layers.1.mlp.down_proj"


def unpack_one(folder: Path, listed: list[str]) -> None:
    """Store one matrix plain in a packed folder, with this ``ignore``."""
    pack(folder, by_index=False)
    dense = load_file(folder.parent / "dense" / "model.safetensors")

    def replace(tensors: dict[str, torch.Tensor]) -> None:
        for name in [each for each in tensors if each.startswith(PLAIN)]:
            del tensors[name]
        tensors[f"{PLAIN}.weight"] = dense[f"{PLAIN}.weight"]

    edit(folder, replace)
    configure(folder, quantization_config=described(ignore=listed))


@pytest.mark.parametrize("listed", [[PLAIN, "lm_head"], ["re:.*1.mlp.down.*", "lm_head"]])
def test_a_listed_matrix_may_be_plain(folder: Path, listed: list[str]) -> None:
    unpack_one(folder, listed)
    packed, dense = open_weights(folder), open_weights(folder.parent / "dense")
    for key, weights in packed.block(1).items():
        assert torch.allclose(weights, dense.block(1)[key], atol=1e-4)
    with pytest.raises(SchemeError, match="stores 1 matrix plain and packs the others"):
        export_gguf(folder, folder.parent / "out")


def test_a_plain_matrix_that_isnt_listed_is_refused(folder: Path) -> None:
    unpack_one(folder, ["lm_head"])
    with pytest.raises(CheckpointError, match=f"stores {PLAIN} plain, which its"):
        open_weights(folder)


def test_a_listed_matrix_that_is_packed_is_refused(folder: Path) -> None:
    pack(folder, by_index=False)
    configure(folder, quantization_config=described(ignore=[PLAIN, "lm_head"]))
    with pytest.raises(
        CheckpointError, match=f"lists {PLAIN} as plain, but there is no plain tensor"
    ):
        open_weights(folder)


def test_a_matrix_that_is_both_plain_and_packed_is_refused(folder: Path) -> None:
    pack(folder, by_index=False)
    edit(folder, put(f"{PLAIN}.weight", 64, 96))
    configure(folder, quantization_config=described(ignore=[PLAIN, "lm_head"]))
    with pytest.raises(CheckpointError, match=f"{PLAIN}.weight_packed.* quantized weights"):
        open_weights(folder)


KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "group of text": (described(config_groups={"a": "x"}), "must be an object with weights"),
    "groups": (described(config_groups=[1]), "no groups"),
    "weights": (described(config_groups={"a": {"weights": [1]}}), "must be an object with weights"),
    "size as text": (described({"group_size": "16"}), "group_size '16'"),
    "size as float": (described({"group_size": 16.0}), r"group_size 16\.0"),
    "symmetric as text": (described({"symmetric": "false"}), "symmetric"),
    "other bits": (described({"num_bits": 3}), "compressed-tensors with 3 bits"),
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
    "AutoRound's own method": {
        "quant_method": "auto-round",
        "packing_format": "auto_round:auto_awq",
        "sym": False,
        "data_type": "int",
        "iters": 200,
        "autoround_version": "0.16.0",
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


def test_a_packed_model_with_another_head_than_it_ties_uses_that_head(folder: Path) -> None:
    pack(folder, by_index=False)
    configure(folder, tie_word_embeddings=True)
    opened = open_weights(folder)
    assert not torch.equal(opened.head(), opened.embedding())
    assert any("differ" in note for note in opened.notes)
