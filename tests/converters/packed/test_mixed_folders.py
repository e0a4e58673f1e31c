"""Mixed folders by other tools: entries for single modules are applied or refused."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from transformers import AutoModelForCausalLM, Phi3ForCausalLM

from converters import open_weights
from converters.packed.mlx_options import MlxOptions
from phi3quant.errors import CheckpointError, Phi3QuantError, SchemeError
from phi3quant.model.architecture import LINEARS
from phi3quant.run.export import export_gguf, export_packed
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.converters.spoiled import IDS, configure, copy_of, edit
from tests.models import own_logits

DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def mixed(
    checkpoint_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Path]:
    """Folders with 8 bits in down_proj, for every layout that holds a mixture."""
    recipe = Recipe(
        "rtn", formats=("compressed-tensors", "gptq", "mlx"), tensor_types=("down_proj=int8",)
    )
    return quantize(
        checkpoint_folder("gqa"), tmp_path_factory.mktemp("mixed") / "out", recipe
    ).folders


def config_of(folder: Path) -> dict[str, Any]:
    described: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return dict(described["quantization_config"])


def in_groups(folder: Path, targets: Mapping[int, list[str]], **changes: Any) -> None:
    """Replace the targets of a folder of compressed-tensors, by bits."""
    described = config_of(folder)
    groups = {group["weights"]["num_bits"]: group for group in described["config_groups"].values()}
    described["config_groups"] = {
        f"g{bits}": {**groups[bits], "targets": names} for bits, names in targets.items()
    }
    configure(folder, quantization_config={**described, **changes})


@pytest.mark.parametrize(
    "targets",
    [
        {4: ["Linear"], 8: ["re:.*down_proj"]},
        {8: ["re:.*down_proj$"], 4: ["Linear"]},
        {8: ["re:.*mlp.down_proj"], 4: ["re:.*self_attn.*", "re:.*gate_up_proj$"]},
        {8: [DOWN, "model.layers.0.mlp.down_proj"], 4: [r"re:model\.layers\.\d+\..*"]},
        {8: ["re:.*down_proj"], 4: ["re:model.*(qkv|o|gate_up)_proj", "re:z?model.*"]},
    ],
)
def test_groups_have_the_modules_that_their_targets_match(
    targets: Mapping[int, list[str]], mixed: Mapping[str, Path], tmp_path: Path
) -> None:
    source = mixed["compressed-tensors"]
    before = own_logits(open_weights(source), IDS)
    folder = copy_of(source, tmp_path / "model")
    in_groups(folder, targets)
    assert torch.equal(own_logits(open_weights(folder), IDS), before)


def by_the_library(folder: Path, source: Path) -> None:
    """Pack a checkpoint with compressed-tensors, down_proj with 8 bits."""

    def group(bits: int, target: str) -> QuantizationScheme:
        return QuantizationScheme(
            targets=[target],
            weights=QuantizationArgs(num_bits=bits, group_size=32, strategy="group"),
        )

    model = Phi3ForCausalLM.from_pretrained(source, dtype=torch.float16)
    groups = {"a": group(4, "Linear"), "b": group(8, "re:.*down_proj$")}
    apply_quantization_config(model, QuantizationConfig(config_groups=groups, ignore=["lm_head"]))
    for module in model.modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is not None:
            largest = module.weight.unflatten(1, (-1, 32)).abs().amax(dim=-1)
            module.weight_scale.data = largest / (2 ** (scheme.weights.num_bits - 1) - 0.5)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_mixed_folder_by_the_library_is_read(
    checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    by_the_library(tmp_path / "model", checkpoint_folder("gqa"))
    opened = open_weights(tmp_path / "model")
    assert opened.format == "compressed-tensors int4 sym g32 and int8 sym g32"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = loaded(IDS).logits
    assert (own_logits(opened, IDS) - expected).abs().max() < 1e-3


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_library_matches_every_target(
    mixed: Mapping[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    AutoModelForCausalLM.from_pretrained(mixed["compressed-tensors"])
    assert "Could not match" not in caplog.text


GROUPS: dict[str, tuple[dict[int, Any], str]] = {
    "contradiction": ({4: ["Linear"], 8: [DOWN]}, r"weight_packed .* config\.json requires I32"),
    "wrong order": ({4: ["re:.*d.*"], 8: ["re:.*down"]}, r"config\.json requires I32"),
    "nothing": ({4: ["Linear"], 8: ["re:.*down_proj", "re:.*experts"]}, "experts.* no matrix"),
    "no module": ({4: ["Linear"], 8: ["re:.*down_proj", "model.norm"]}, "model.norm.* no matrix"),
    "no group": ({4: ["re:.*self_attn"], 8: ["re:.*down_proj"]}, "gate_up_proj as plain, but"),
    "twice": ({4: ["Linear", DOWN], 8: [DOWN]}, "two groups .* the target"),
    "lookahead": ({4: ["Linear"], 8: ["re:(?!.*up).*down_proj"]}, "isn't supported from"),
    "broken": ({4: ["Linear"], 8: ["re:(.*down_proj"]}, "isn't supported from"),
    "no targets": ({4: ["Linear"], 8: []}, r"targets \[\]"),
    "text": ({4: ["Linear"], 8: "re:.*down_proj"}, "targets 're:.*down_proj' isn't"),
    "numbers": ({4: ["Linear"], 8: [8]}, r"targets \[8\]"),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_groups_that_do_not_fit_are_refused(
    kind: str, mixed: Mapping[str, Path], tmp_path: Path
) -> None:
    targets, message = GROUPS[kind]
    folder = copy_of(mixed["compressed-tensors"], tmp_path / "model")
    in_groups(folder, targets)
    with pytest.raises(Phi3QuantError, match=message):
        open_weights(folder)


def test_slow_expressions_are_answered(mixed: Mapping[str, Path], tmp_path: Path) -> None:
    folder = copy_of(mixed["compressed-tensors"], tmp_path / "model")
    in_groups(folder, {4: ["Linear"], 8: ["re:(((.*)*)*)*!", "re:.*down_proj"]})
    with pytest.raises(SchemeError, match="matches no matrix"):
        open_weights(folder)
    slow = [f"re:(.?){{300}}{number}" for number in range(3000)]
    in_groups(folder, {4: ["Linear"], 8: ["re:.*down_proj", *slow]})
    with pytest.raises(SchemeError, match="take too long"):
        open_weights(folder)


def test_ignored_modules_are_plain_whatever_group_they_match(
    mixed: Mapping[str, Path], checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy_of(mixed["compressed-tensors"], tmp_path / "model")
    plain = open_weights(checkpoint_folder("gqa")).block(1)["down_proj"]

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(DOWN)]:
            del tensors[name]
        tensors[f"{DOWN}.weight"] = plain

    edit(folder, change)
    in_groups(folder, {4: ["Linear"], 8: ["re:.*down_proj"]}, ignore=["lm_head", DOWN])
    assert torch.equal(open_weights(folder).block(1)["down_proj"], plain)
    with pytest.raises(SchemeError, match="stores 1 matrix plain"):
        export_gguf(folder, tmp_path / "out")


EIGHT = {"bits": 8}


@pytest.mark.parametrize(
    "modules",
    [
        {"+:.*down_proj": EIGHT},
        {r"model\.layers\.[01]\.mlp\.down.*": {**EIGHT, "group_size": 32, "sym": True}},
        {"-:lm_head": {}, ".*down_proj$": {**EIGHT, "desc_act": False, "mse": 0.0}},
        {".*(qkv|o|gate|up)_proj": {}, ".*": EIGHT},
    ],
)
def test_dynamic_has_the_modules_that_its_expressions_match(
    modules: Mapping[str, Any], mixed: Mapping[str, Path], tmp_path: Path
) -> None:
    before = own_logits(open_weights(mixed["gptq"]), IDS)
    folder = copy_of(mixed["gptq"], tmp_path / "model")
    configure(folder, quantization_config={**config_of(folder), "dynamic": modules})
    assert torch.equal(own_logits(open_weights(folder), IDS), before)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({}, r"config\.json requires I32"),
        ({".*o.*_proj": EIGHT}, r"config\.json requires I32"),
        ({"-:.*mlp": {}, ".*down": EIGHT}, "as plain, but there is no plain tensor"),
    ],
)
def test_entries_of_dynamic_that_contradict_tensors_are_refused(
    modules: Mapping[str, Any], message: str, mixed: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = copy_of(mixed["gptq"], tmp_path / "model")
    configure(folder, quantization_config={**config_of(folder), "dynamic": modules})
    with pytest.raises(CheckpointError, match=message):
        open_weights(folder)


def test_modules_of_mlx_have_sections_of_their_own(mixed: Mapping[str, Path]) -> None:
    described = config_of(mixed["mlx"])
    eight = {"group_size": 32, "bits": 8}
    assert described == {
        "group_size": 32,
        "bits": 4,
        "model.layers.0.mlp.down_proj": eight,
        DOWN: eight,
        "model.embed_tokens": eight,
        "lm_head": eight,
    }


def test_modules_are_named_exactly_in_the_groups_and_in_dynamic(mixed: Mapping[str, Path]) -> None:
    groups = config_of(mixed["compressed-tensors"])["config_groups"]
    assert [group["targets"] for group in groups.values()] == [
        ["model.layers.0.mlp.down_proj", DOWN],
        ["Linear"],
    ]
    assert config_of(mixed["gptq"])["dynamic"] == {
        rf"+:^model\.layers\.{index}\.mlp\.down_proj$": {"bits": 8, "group_size": 32, "sym": True}
        for index in range(2)
    }


def test_a_mixed_folder_is_described_as_one(mixed: Mapping[str, Path]) -> None:
    formats = [open_weights(folder).format for folder in mixed.values()]
    assert formats == [
        "compressed-tensors int4 sym g32 and int8 sym g32",
        "GPTQ int4 sym g32 and int8 sym g32",
        "MLX int4 asym g32 and int8 asym g32",
    ]
    recorded = json.loads((mixed["gptq"].parent / "phi3quant.json").read_text())["recipe"]
    assert recorded["tensor_types"] == ["down_proj=int8"]


def test_each_matrix_has_the_codes_of_its_own_width(
    mixed: Mapping[str, Path], checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    for bits in (4, 8):
        recipe = Recipe("rtn", tensor_types=(f".=int{bits}",))
        (whole,) = quantize(checkpoint_folder("gqa"), tmp_path / f"{bits}", recipe).folders.values()
        expected, actual = open_weights(whole), open_weights(mixed["gptq"])
        for key in LINEARS:
            if (key == "down_proj") == (bits == 8):
                assert torch.equal(actual.block(1)[key], expected.block(1)[key])


def test_3_and_4_bits_are_mixed_in_gptq(
    checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    recipe = Recipe("rtn", formats=("gptq", "mlx"), tensor_types=("down_proj=int3",))
    recipe = replace(recipe, mlx=MlxOptions("fp16", "fp16"))
    folders = quantize(checkpoint_folder("gqa"), tmp_path / "out", recipe).folders
    assert config_of(folders["gptq"])["checkpoint_format"] == "gptq_v2"
    assert open_weights(folders["gptq"]).format == "GPTQ int3 sym g32 and int4 sym g32"
    back = export_packed(folders["mlx"], tmp_path / "back", layout="gptq").folders["gptq"]
    for name in ("model.safetensors", "config.json"):
        assert (back / name).read_bytes() == (folders["gptq"] / name).read_bytes()
