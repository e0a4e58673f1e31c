"""Bits for single matrices by measured loss, and recipes with names."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from click.testing import CliRunner, Result

from calib.sensitivity import Candidates, Costs, measure
from converters.gguf.reader import open_gguf
from converters.gguf.type_policy import fitting_type
from phi3quant.cli.main import main
from phi3quant.errors import SchemeError
from phi3quant.evaluation.evaluate import EvaluationText, evaluate
from phi3quant.evaluation.inspection import inspect
from phi3quant.model.architecture import EMBEDDING, HEAD, LINEARS, block_tensor_name, tensor_shapes
from phi3quant.progress import silent
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.calibration import Calibration
from phi3quant.run.mixed_types import TRIED, mixed_types
from phi3quant.run.pipeline import quantize
from phi3quant.run.presets import PRESETS
from phi3quant.run.recipe import Recipe
from phi3quant.source.checkpoint import open_checkpoint
from phi3quant.source.locate import bundled_folder
from tests.models import VOCABULARY, own_logits

FEW = Calibration(samples=8, length=128)
SHORT = EvaluationText(max_tokens=4096)


def noise(weight: torch.Tensor, _inputs: torch.Tensor | None) -> list[tuple[str, torch.Tensor]]:
    """An error that is small, so that the second order says it all; the same in every call."""
    generator = torch.Generator().manual_seed(weight.numel())
    return [("noise", 1e-4 * weight.std() * torch.randn(weight.shape, generator=generator))]


class Changed:
    """A model with one of its matrices changed."""

    def __init__(self, folder: Path, name: str) -> None:
        self._model, self._name = open_checkpoint(folder), name
        self.config = self._model.config

    def _with_noise(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        return weight + noise(weight, None)[0][1] if name == self._name else weight

    def embedding(self) -> torch.Tensor:
        return self._with_noise(EMBEDDING, self._model.embedding())

    def block(self, index: int) -> Mapping[str, torch.Tensor]:
        return {
            key: self._with_noise(block_tensor_name(index, key), tensor)
            for key, tensor in self._model.block(index).items()
        }

    def final_norm(self) -> torch.Tensor:
        return self._model.final_norm()

    def head(self) -> torch.Tensor:
        name = EMBEDDING if self.config.tie_word_embeddings else HEAD
        return self._with_noise(name, self._model.head())


@pytest.mark.parametrize("variant", ["gqa", "tied", "window"])
def test_costs_are_the_divergences_that_errors_really_cause(
    variant: str, checkpoint_folder: Callable[[str], Path]
) -> None:
    folder = checkpoint_folder(variant)
    model = open_checkpoint(folder)
    ids = torch.randint(0, VOCABULARY, (48, 24), generator=torch.Generator().manual_seed(1))
    costs: Costs = measure(model, ids, noise, lambda _blocks: None)
    tied = model.config.tie_word_embeddings
    assert len(costs) == 2 * len(LINEARS) + (1 if tied else 2)
    with torch.inference_mode():
        reference = own_logits(model, ids).double().log_softmax(-1)
        ratios = {}
        for name, found in costs.items():
            other = own_logits(Changed(folder, name), ids).double().log_softmax(-1)
            true = float((reference.exp() * (reference - other)).sum(-1).mean())
            ratios[name] = found["noise"] / true
    # Few tokens carry most of what an untrained model's embedding does, so that draws scatter.
    assert 0.1 < ratios.pop(EMBEDDING) < 10
    assert all(0.5 < ratio < 2 for ratio in ratios.values()), ratios


def test_a_target_is_met_and_loses_less_than_a_type_of_that_size(tmp_path: Path) -> None:
    def make(name: str, **fields: Any) -> Path:
        recipe = Recipe("awq", formats=("gguf",), calibration=FEW, **fields)
        quantize("phi3-tiny", tmp_path / name, recipe)
        return tmp_path / name

    plain = make("plain", gguf_type="q4_k_m")
    size = open_gguf(plain).weight_bytes
    bits = 8 * size / 3_410_176
    mixed = make("mixed", target_bpw=bits)
    assert 0.98 * size < open_gguf(mixed).weight_bytes <= size
    told = json.loads((mixed / "phi3quant.json").read_text())["recipe"]
    assert told["target_bpw"] == bits
    assert len(told["tensor_types"]) == 18
    again = make("again", gguf_type="mixed", tensor_types=tuple(told["tensor_types"]))
    ours, same, other = (
        float(each.kl.mean())
        for each in evaluate(["phi3-tiny", mixed, again, plain], SHORT).comparisons[1:]
    )
    assert ours == same
    assert ours < other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"formats": ("gptq",)}, r"too few; with int3 in all matrices GPTQ takes 7\.\d+"),
        ({"formats": ("awq-gemm",)}, r"AWQ-GEMM has one scheme .* is int8"),
        ({"gguf_type": "q4_k_m"}, "not both"),
        ({"method": "rtn"}, "rtn doesn't use; choose awq or gptq"),
        ({"target_bpw": 3.0}, r"3 bits per weight are too few; .* takes 3\.46"),
    ],
)
def test_targets_that_can_not_be_met_are_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    fields = {"formats": ("gguf",), "target_bpw": 5.0, "calibration": FEW, **changes}
    with pytest.raises(SchemeError, match=message):
        quantize("phi3-tiny", tmp_path / "out", Recipe(**fields))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(
        main, [*arguments, "--no-verify", "--samples", "4", "--seq-len", "64"]
    )


EXPECTED: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "phone-fast": ("phi3-tiny-Q4_0.gguf", {"bits": 4, "group_size": 32, "symmetric": True}),
    "best": ("phi3-tiny-Q4_0.gguf", {"bits": 4, "group_size": 32, "symmetric": True}),
    "phone-quality": ("phi3-tiny-Q4_K_M.gguf", {"gguf_type": "Q4_K_M"}),
    "iphone": ("model.safetensors", {"bits": 4, "group_size": 64, "symmetric": False}),
    "small": ("model.onnx", {"bits": 4, "group_size": 128, "symmetric": True}),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_make_what_they_say(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    little = ("--tune-windows", "8") if PRESETS[name].tuning else ()
    result = run("awq", "--preset", name, *little, "-o", str(out))
    assert result.exit_code == 0, result.output
    manifest = json.loads((out / "phi3quant.json").read_text())
    assert manifest["calibration"]["windows"] == 4
    recipe = manifest["recipe"]
    assert recipe["formats"] == list(PRESETS[name].formats)
    file, stated = EXPECTED[name]
    assert (out / file).is_file()
    assert stated.items() <= recipe.items()
    if name == "small":
        assert recipe["onnx"]["embedding"] == "int4"
    if name == "best":
        assert manifest["calibration"]["text"] == "tiny/calibration"
        assert set(manifest["tuning"]["held_back"]) == {"tiny/calibration"}
        assert recipe["tuning"].items() >= {"windows": 8, "passes": 4}.items()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), Calibration()),
        (("--preset", "small"), Calibration(samples=128)),
        (("--preset", "small", "--seed", "1"), Calibration(samples=128, seed=1)),
        (("--preset", "small", "--samples", "64"), Calibration(samples=64)),
        (("--calib", "tiny", "--seq-len", "9"), Calibration("tiny", length=9)),
        (("--preset", "best"), Calibration(samples=512)),
        (("--preset", "best", "--calib", "tiny"), Calibration("tiny", samples=512)),
    ],
)
def test_presets_calibrate_on_more_unless_told_otherwise(
    arguments: tuple[str, ...],
    expected: Calibration,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = Mock(side_effect=SchemeError("far enough"))
    monkeypatch.setattr("phi3quant.cli.quantize.quantize", begun)
    result = CliRunner().invoke(main, ["awq", *arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code == 2, result.output
    (recipe,) = (given for given in begun.call_args.args if isinstance(given, Recipe))
    assert recipe.calibration == expected


def test_a_target_by_itself_makes_a_gguf_file(tmp_path: Path) -> None:
    result = run("awq", "--target-bpw", "8.1", "-o", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "phi3-tiny-MIXED.gguf").is_file()


def test_what_is_given_beside_a_preset_counts_more(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(
        "awq", "--preset", "small", "--asym", "--export", "compressed-tensors", "-o", str(out)
    )
    assert result.exit_code == 0, result.output
    recipe = json.loads((out / "phi3quant.json").read_text())["recipe"]
    assert recipe["formats"] == ["compressed-tensors"]
    assert (recipe["group_size"], recipe["symmetric"]) == (128, False)


def test_a_target_of_three_and_a_half_bits_is_met(tmp_path: Path) -> None:
    recipe = Recipe("awq", formats=("gguf",), calibration=FEW, target_bpw=3.5)
    quantize("phi3-tiny", tmp_path / "out", recipe)
    file = open_gguf(tmp_path / "out")
    assert 3.43 < 8 * file.weight_bytes / 3_410_176 <= 3.5
    types = json.loads((tmp_path / "out" / "phi3quant.json").read_text())["recipe"]["tensor_types"]
    assert sum(kind.endswith("=Q3_K") for kind in types) > len(types) / 2


@pytest.mark.parametrize(("slow", "expected"), [(99.0, "Q4_K"), (1.0, "IQ4_XS")])
def test_types_without_a_fast_path_are_chosen_only_where_they_lose_less(
    slow: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_checkpoint(bundled_folder())
    ids = torch.zeros(2, 8, dtype=torch.int64)
    fast = {"Q8_0": 2.0, "Q6_K": 4.0, "Q5_K": 8.0, "Q4_K": 16.0, "Q4_0": 17.0}
    costs = {kind: fast.get(kind, slow) for kind in TRIED if kind != "Q3_K"} | {"Q3_K": 99.0}
    names = [name for name, shape in tensor_shapes(model.config).items() if len(shape) > 1]
    measured = Mock(return_value=dict.fromkeys(names, costs))
    monkeypatch.setattr("phi3quant.run.mixed_types.measure", measured)
    types = mixed_types(model, ids, 4.52, silent, compensate=False)
    assert {kind.rpartition("=")[2] for kind in types} == {expected}
    types = mixed_types(model, ids, 3.9, silent, compensate=False)
    assert "Q3_K" in {kind.rpartition("=")[2] for kind in types}


def test_rows_that_are_no_superblocks_may_get_a_minimum(
    checkpoint_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights with a mean, in matrices that matter equally."""
    model = open_checkpoint(checkpoint_folder("gqa"))
    shapes = tensor_shapes(model.config)

    def measured(_model: object, _ids: object, errors: Candidates, _step: object) -> Costs:
        costs = {}
        for name, shape in shapes.items():
            weight = 1 + torch.rand(shape, generator=torch.Generator().manual_seed(1))
            if weight.dim() > 1:
                costs[name] = {kind: float(e.square().sum()) for kind, e in errors(weight, None)}
        return costs

    monkeypatch.setattr("phi3quant.run.mixed_types.measure", measured)
    types = mixed_types(model, torch.zeros(1, 8).long(), 5.1, silent, compensate=False)
    kinds = [kind.rpartition("=")[2] for kind in types]
    assert kinds.count("Q4_1") > len(kinds) / 2, kinds


def test_embedding_and_head_get_more_where_the_blocks_are_compensated() -> None:
    model = open_checkpoint(bundled_folder())
    width, vocabulary = model.config.hidden_size, model.config.vocab_size
    ids = torch.randint(0, vocabulary, (2, 64), generator=torch.Generator().manual_seed(1))
    outside = []
    for compensate in (False, True):
        types = mixed_types(model, ids, 5.6, silent, compensate=compensate)
        kinds = [kind.rpartition("=")[2] for kind in types if "blk" not in kind]
        assert len(kinds) == 2
        outside.append(sum(fitting_type(kind, width).row_bytes(width) for kind in kinds))
    assert outside[0] < outside[1]


@pytest.mark.parametrize("formats", [("mlx",), ("compressed-tensors", "gptq", "onnx", "gguf")])
def test_widths_meet_a_target_in_every_format(formats: tuple[str, ...], tmp_path: Path) -> None:
    def make(name: str, method: str = "gptq", **fields: Any) -> Mapping[str, Path]:
        recipe = Recipe(method, formats=formats, calibration=FEW, **fields)
        return quantize("phi3-tiny", tmp_path / name, recipe).folders

    def largest(folders: Mapping[str, Path]) -> float:
        return max(inspect(folder).bits_per_weight for folder in folders.values())

    least = largest(make("narrow"))
    most = largest(make("wide", "rtn", scheme=QuantScheme(8, 32)))
    target = least + (most - least) / 4
    mixed = make("mixed", target_bpw=target)
    assert target - 0.2 < largest(mixed) <= target
    recorded = json.loads((tmp_path / "mixed" / "phi3quant.json").read_text())["recipe"]
    assert recorded["target_bpw"] == target
    assert recorded["bits"] == 4
    again = make("again", tensor_types=tuple(recorded["tensor_types"]))
    for name, folder in mixed.items():
        for file in folder.glob("*.safetensors"):
            assert file.read_bytes() == (again[name] / file.name).read_bytes()
    first = next(iter(mixed.values()))
    ours, other = (
        float(each.kl.mean())
        for each in evaluate(["phi3-tiny", first, tmp_path / "narrow"], SHORT).comparisons[1:]
    )
    assert ours < other


def test_targets_below_4_bits_mix_3_and_4_where_the_format_holds_3(tmp_path: Path) -> None:
    def make(name: str, method: str = "rtn", **fields: Any) -> float:
        recipe = Recipe(method, formats=("mlx",), calibration=FEW, **fields)
        (folder,) = quantize("phi3-tiny", tmp_path / name, recipe).folders.values()
        return inspect(folder).bits_per_weight

    least = make("narrow", scheme=QuantScheme(3, 32))
    target = (least + make("usual")) / 2
    assert target - 0.2 < make("mixed", "gptq", target_bpw=target) <= target
    recorded = json.loads((tmp_path / "mixed" / "phi3quant.json").read_text())["recipe"]
    assert recorded["bits"] == 3
    assert {entry.rpartition("=")[2] for entry in recorded["tensor_types"]} == {"int4"}
    small = Recipe("gptq", formats=("mlx",), calibration=FEW, target_bpw=least - 0.1)
    with pytest.raises(SchemeError, match="with int3 in all matrices MLX takes"):
        quantize("phi3-tiny", tmp_path / "out", small)
    other = Recipe("gptq", formats=("mlx", "onnx"), calibration=FEW, target_bpw=target)
    with pytest.raises(SchemeError, match="with int4 in all matrices"):
        quantize("phi3-tiny", tmp_path / "out", other)
