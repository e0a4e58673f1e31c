"""GPTQ folders by phi3quant and by other tools."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoRoundConfig, GPTQConfig

from converters import open_weights
from converters.packed.mlx_options import MlxOptions
from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.model.architecture import LINEARS, block_tensor_name
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.export import export_gguf
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.converters.packed.gptq_folders import (
    GROUP,
    Tensors,
    assert_equal_to_dense,
    dequantized,
    describe,
    pack,
)
from tests.converters.spoiled import IDS, QKV, edit, put
from tests.models import own_logits


@pytest.mark.parametrize("by_index", [False, True])
@pytest.mark.parametrize(("bits", "version"), [(4, 1), (4, 2), (8, 1), (8, 2), (3, 2)])
def test_weights_are_those_of_the_published_layout(
    folder: Path, bits: int, version: int, *, by_index: bool
) -> None:
    pack(folder, bits=bits, version=version, by_index=by_index)
    assert_equal_to_dense(folder)


@pytest.mark.parametrize(
    "scheme",
    [
        QuantScheme(4, 32),
        QuantScheme(4, 16, symmetric=False),
        QuantScheme(4, None),
        QuantScheme(8, 16),
        QuantScheme(8, None, symmetric=False),
        QuantScheme(3, 32),
        QuantScheme(3, 32, symmetric=False),
    ],
    ids=str,
)
def test_a_written_folder_has_the_codes_of_the_other_formats(
    folder: Path, scheme: QuantScheme
) -> None:
    first = scheme.symmetric and scheme.bits != 3
    other = "mlx" if scheme.bits == 3 else "compressed-tensors"
    recipe = Recipe("rtn", scheme, ("gptq", other), mlx=MlxOptions("fp16", "fp16"))
    folders = quantize(folder, folder.parent / "out", recipe).folders
    described = json.loads((folders["gptq"] / "config.json").read_text())["quantization_config"]
    assert described["checkpoint_format"] == ("gptq" if first else "gptq_v2")
    stored = load_file(folders["gptq"] / "model.safetensors")
    gptq, twin = (open_weights(folders[name]) for name in recipe.formats)
    assert gptq.format == f"GPTQ {scheme}"
    for index in range(2):
        for key in LINEARS:
            stem = block_tensor_name(index, key).removesuffix("weight")
            tensors = {name.removeprefix(stem): stored[name] for name in stored if stem in name}
            weights = dequantized(tensors, scheme.bits, 1 if first else 2)
            assert torch.allclose(weights, gptq.block(index)[key], atol=1e-6)
            # MLX rounds the offsets of zero points.
            atol = 1e-3 if other == "mlx" and not scheme.symmetric else 0
            assert torch.allclose(gptq.block(index)[key], twin.block(index)[key], rtol=0, atol=atol)


def test_consecutive_groups_are_exported_though_they_have_an_index(folder: Path) -> None:
    recipe = Recipe("rtn", formats=("gptq", "compressed-tensors"))
    folders = quantize(folder, folder.parent / "out", recipe).folders
    describe(folders["gptq"], desc_act=True)
    files = [
        next(export_gguf(folders[name], folder.parent / name).folders["gguf"].glob("*.gguf"))
        for name in recipe.formats
    ]
    first, second = (open_weights(file).block(0) for file in files)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert files[0].name.endswith("Q4_0.gguf")


def test_columns_in_another_order_are_not_exported_as_if_they_followed(folder: Path) -> None:
    pack(folder, by_index=True)
    with pytest.raises(SchemeError, match=r"not consecutive \(.*g_idx\)"):
        export_gguf(folder, folder.parent / "out")


def drop(ending: str) -> Any:
    def without(tensors: Tensors) -> None:
        for name in [each for each in tensors if each.endswith(ending)]:
            del tensors[name]

    return without


def test_desc_act_requires_an_index(folder: Path) -> None:
    pack(folder, by_index=True)
    edit(folder, drop("g_idx"))
    with pytest.raises(CheckpointError, match=r"has no tensor .*g_idx"):
        open_weights(folder)


def test_consecutive_groups_need_no_index(folder: Path) -> None:
    pack(folder)
    edit(folder, drop("g_idx"))
    assert_equal_to_dense(folder)


def test_an_index_out_of_order_contradicts_desc_act_false(folder: Path) -> None:
    pack(folder, by_index=True)
    describe(folder, desc_act=False)
    with pytest.raises(CheckpointError, match="desc_act false"):
        open_weights(folder).block(0)


@pytest.mark.parametrize("group", [0, -1, 1 << 30])
def test_an_index_of_uneven_groups_is_refused(folder: Path, group: int) -> None:
    pack(folder, by_index=True)
    edit(folder, lambda tensors: tensors[QKV + "g_idx"].fill_(group))
    with pytest.raises(CheckpointError, match="16 columns to each group"):
        open_weights(folder).block(0)


def test_zero_biases_change_nothing(folder: Path) -> None:
    pack(folder)
    bias = {QKV + "bias": torch.zeros(128)}
    edit(folder, lambda tensors: tensors.update(bias))
    assert_equal_to_dense(folder)


def test_a_bias_is_refused(folder: Path) -> None:
    pack(folder)
    edit(folder, put(QKV + "bias", 128))
    with pytest.raises(CheckpointError, match="the bias would be lost"):
        open_weights(folder)


# As the tools write it by default, of symmetric codes.
BY_TOOLS: dict[str, dict[str, Any]] = {
    "AutoGPTQ": {
        "damp_percent": 0.01,
        "static_groups": False,
        "true_sequential": True,
        "model_name_or_path": None,
        "model_file_base_name": "model",
        "is_marlin_format": False,
    },
    "AutoGPTQ without a version": {"checkpoint_format": None},
    "GPTQModel": {
        "method": "gptq",
        "format": "gptq",
        "lm_head": False,
        "pack_dtype": "int32",
        "meta": {"quantizer": ["gptqmodel:5.0.0"], "act_group_aware": True},
    },
    "transformers": GPTQConfig(bits=4, group_size=GROUP, dataset="c4").to_dict(),
    "AutoRound": {"autoround_version": "0.4.7", "iters": 200, "lm_head": False},
    "AutoRound's own method": {
        **AutoRoundConfig(bits=4, group_size=GROUP).to_dict(),
        "quant_method": "auto-round",
        "packing_format": "auto_round:auto_gptq",
        "checkpoint_format": None,
        "block_name_to_quantize": "model.layers",
        "data_type": "int",
        "autoround_version": "0.9.0",
    },
}


@pytest.mark.parametrize("tool", BY_TOOLS)
def test_gptq_is_read_as_every_tool_describes_it(folder: Path, tool: str) -> None:
    pack(folder, sym=True)
    before = own_logits(open_weights(folder), IDS)
    describe(folder, **BY_TOOLS[tool])
    assert torch.equal(own_logits(open_weights(folder), IDS), before)


@pytest.mark.parametrize(
    ("packing", "version"),
    [
        ("auto_round:auto_gptq", 1),
        ("auto_round:gptq", 1),
        ("auto_round:gptqmodel", 2),
        ("auto_round", 2),
    ],
)
def test_autoround_names_the_version_by_its_packing(
    folder: Path, packing: str, version: int
) -> None:
    pack(folder, version=version)
    describe(folder, quant_method="auto-round", packing_format=packing, checkpoint_format=None)
    assert_equal_to_dense(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 2}, "GPTQ with 2 bits isn't supported; it must have 3, 4 or 8"),
        ({"bits": True}, "GPTQ with True bits"),
        ({"group_size": 1024}, "group_size 1024"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        ({"checkpoint_format": "gptq_p"}, "checkpoint_format 'gptq_p'"),
        ({"format": "gptq_v2"}, "contradict each other"),
        ({"packing_format": "auto_round:auto_awq"}, "packing_format"),
        ({"pack_dtype": "int16"}, "pack_dtype 'int16'"),
        ({"lm_head": True}, "lm_head True"),
        ({"is_marlin_format": True}, "is_marlin_format True"),
        ({"rotation": "hadamard"}, "rotation 'hadamard'"),
        ({"dynamic": [8]}, r"dynamic is \[8\]"),
        ({"dynamic": {"a": 8}}, "entry 'a' of dynamic is 8"),
        ({"dynamic": {".*down": {"bits": 6}}}, r"6 bits in the entry '\.\*down' of dynamic"),
        ({"dynamic": {".*down": {"group_size": 48}}}, "group_size 48 in the entry"),
        ({"dynamic": {".*down": {"sym": 1}}}, "sym is 1 in the entry"),
        ({"dynamic": {".*down": {"rank": 8}}}, r"entry '\.\*down' of dynamic has .* key 'rank'"),
        ({"dynamic": {".*down": {"pack_dtype": "int16"}}}, "pack_dtype 'int16'"),
        ({"dynamic": {"+:.*experts.*": {"bits": 8}}}, r"experts.* matches no matrix"),
        ({"dynamic": {"lm_head": {"bits": 8}}}, "'lm_head' of dynamic matches no matrix"),
        ({"dynamic": {"(?!.*down).*": {"bits": 8}}}, "isn't supported from"),
        ({"extra_config": {"lm_head": {"bits": 8}}}, "extra_config"),
        ({"desc_act": 1}, "desc_act is 1"),
        ({"sym": "true"}, "sym is 'true'"),
        ({"modules_to_not_convert": "x"}, "must be a list"),
        ({"surprise": 1}, "the unknown key 'surprise'"),
    ],
)
def test_gptq_in_another_form_is_refused_by_key(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    pack(folder)
    describe(folder, **changes)
    with pytest.raises(SchemeError, match=message):
        open_weights(folder)


@pytest.mark.parametrize("packing", [["auto_round"], {"a": 1}, 3])
def test_a_packing_format_of_another_type_is_refused(folder: Path, packing: object) -> None:
    pack(folder)
    describe(folder, quant_method="auto-round", packing_format=packing)
    with pytest.raises(CheckpointError, match="can't be read"):
        open_weights(folder)
