"""Models whose matrices have several widths, in every format that holds them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from converters import open_model, open_weights, parts_of
from converters.gguf.sizes import natural_type
from converters.gguf.type_policy import file_type
from converters.onnx.options import OnnxOptions
from converters.onnx.sizes import PlannedMatrices, plan_matrices
from phi3quant.errors import SchemeError
from phi3quant.estimating.artifact import gguf, onnx, packed
from phi3quant.estimating.members import describe
from phi3quant.evaluation.inspection import inspect
from phi3quant.model.architecture import LINEARS, block_tensor_name
from phi3quant.model.config import Phi3Config
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.export import export_gguf, export_onnx, export_packed
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.converters.onnx.runtime import Runtime
from tests.converters.spoiled import IDS
from tests.converters.test_conversions import PLAIN_OUTER, assert_same, export
from tests.models import make_model, own_logits

DOWN = "model.layers.1.mlp.down_proj"
TYPES = ("down_proj=int8", r"layers\.0.*qkv_proj=int8")
EIGHT = tuple(
    f"model.layers.{module}.weight"
    for module in ("0.self_attn.qkv_proj", "0.mlp.down_proj", "1.mlp.down_proj")
)
HELD = ("compressed-tensors", "gptq", "mlx", "onnx")


class Apart(Recipe):
    """Zero points for the codes of 4 bits alone, as in a file with Q4_1 and Q8_0."""

    def schemes(self, config: Phi3Config) -> MatrixSchemes:
        """The base has more matrices than the others."""
        del config
        return MatrixSchemes(
            QuantScheme(4, 32, symmetric=False), dict.fromkeys(EIGHT, QuantScheme(8, 32))
        )


RECIPES = {
    "sym": Recipe("rtn", QuantScheme(4, 32), (*HELD, "gguf"), tensor_types=TYPES),
    "asym": Recipe("rtn", QuantScheme(4, 64, symmetric=False), HELD, tensor_types=TYPES),
    "both": Apart("rtn", formats=(*HELD, "gguf")),
}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide") / "model"
    sizes = {"hidden_size": 128, "intermediate_size": 256, "tie_word_embeddings": request.param}
    make_model(folder, **sizes)
    return folder


@pytest.fixture(scope="module", params=RECIPES)
def mixed(
    request: pytest.FixtureRequest, wide: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Path]:
    """Folders of every format that holds a mixture, with the same codes."""
    out = tmp_path_factory.mktemp("mixed") / "out"
    return quantize(wide, out, replace(RECIPES[request.param], mlx=PLAIN_OUTER)).folders


def widths(folder: Path) -> dict[str, int]:
    model = open_model(folder)
    schemes = parts_of(model).schemes
    assert schemes is not None
    names = (block_tensor_name(i, key) for i in range(2) for key in LINEARS)
    return {name: schemes.scheme(name).bits for name in names}


def test_the_matrices_have_their_widths(mixed: Mapping[str, Path]) -> None:
    for folder in mixed.values():
        assert tuple(name for name, bits in widths(folder).items() if bits == 8) == EIGHT


def test_codes_survive_every_conversion_and_the_way_back(
    mixed: Mapping[str, Path], tmp_path: Path
) -> None:
    for source, target in permutations(mixed, 2):
        there = export(mixed[source], tmp_path / f"{source}-{target}", target)
        assert_same(mixed[source], there)
        back = export(there, tmp_path / f"{source}-{target}-back", source)
        assert_same(mixed[source], back)
        recorded = json.loads((there / "phi3quant.json").read_text())["recipe"]
        assert len(recorded["tensor_types"]) == len(EIGHT)


def test_a_conversion_has_the_bytes_of_a_run(mixed: Mapping[str, Path], tmp_path: Path) -> None:
    for source, target in permutations(set(mixed) - {"gguf", "onnx"}, 2):
        out = export(mixed[source], tmp_path / f"{source}-{target}", target)
        for name in ("model.safetensors", "config.json"):
            assert (out / name).read_bytes() == (mixed[target] / name).read_bytes()


def test_awq_gemm_refuses_a_mixture_by_name(mixed: Mapping[str, Path], tmp_path: Path) -> None:
    for source in mixed.values():
        with pytest.raises(SchemeError, match=r"AWQ-GEMM has one scheme .* is int8"):
            export(source, tmp_path / "out", "awq-gemm")
    assert not (tmp_path / "out").exists()


def test_the_size_of_a_mixture_is_estimated_exactly(mixed: Mapping[str, Path], wide: Path) -> None:
    model = describe(str(wide))
    for name, folder in mixed.items():
        schemes = parts_of(open_model(folder)).schemes
        assert schemes is not None
        expected = inspect(folder).weight_bytes
        if name == "onnx":
            assert onnx(model, schemes, OnnxOptions()).nbytes == expected
        elif name == "gguf":
            assert gguf(model, natural_type(schemes)).nbytes == expected
        elif name != "mlx":
            assert packed(model, schemes, name).nbytes == expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_transformers_computes_the_logits_of_a_mixed_folder(mixed: Mapping[str, Path]) -> None:
    folder = mixed["compressed-tensors"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = model(IDS).logits
    assert (own_logits(open_weights(folder), IDS) - expected).abs().max() < 1e-3


def test_onnxruntime_computes_the_logits_of_a_mixed_folder(
    mixed: Mapping[str, Path], tmp_path: Path
) -> None:
    options = OnnxOptions(accuracy_level=0, embedding="fp32", head="fp32")
    folder = export_onnx(mixed["gptq"], tmp_path / "out", options=options).folders["onnx"]
    logits = Runtime(folder).once(IDS)
    assert (own_logits(open_weights(mixed["gptq"]), IDS) - logits).abs().max() < 1e-3


def test_mixtures_of_ggufs_types_are_kept_in_other_formats(wide: Path, tmp_path: Path) -> None:
    kind = file_type("q4_0", ["ffn_down=q8_0", r"blk\.1\.attn_output=q8_0"])
    source = export_gguf(wide, tmp_path / "source", kind=kind).folders["gguf"]
    expected = open_weights(source)
    for target in HELD:
        there = export(source, tmp_path / target, target)
        assert_same(source, there)
        back = open_weights(export(there, tmp_path / f"{target}-back", "gguf"))
        for index in range(2):
            for key in LINEARS:
                assert torch.equal(back.block(index)[key], expected.block(index)[key])
    with pytest.raises(SchemeError, match="AWQ-GEMM has one scheme"):
        export(source, tmp_path / "awq", "awq-gemm")
    rounded = export_packed(source, tmp_path / "awq", layout="awq-gemm", requantize=True)
    for key, codes in parts_of(open_model(rounded.folders["awq-gemm"])).block(0).items():
        if key in ("qkv_proj", "o_proj", "gate_up_proj"):
            # These had four bits before.
            assert torch.equal(codes.dequantize(), expected.block(0)[key])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("Q6_K", "stores matrices as Q6_K, whose codes no other format holds"),
        ("F16", "stores matrices as F16 and Q4_0, and other formats need codes for all"),
    ],
)
def test_mixtures_with_other_types_are_refused_by_name(
    other: str, message: str, tmp_path: Path
) -> None:
    make_model(tmp_path / "model", hidden_size=256, intermediate_size=256)
    kind = file_type("q4_0", [f"ffn_down={other}"])
    source = export_gguf(tmp_path / "model", tmp_path / "source", kind=kind).folders["gguf"]
    with pytest.raises(SchemeError, match=message):
        export(source, tmp_path / "out", "gptq")
    for key, tensor in parts_of(open_model(source)).block(0).items():
        if key in LINEARS:
            plain = tensor if isinstance(tensor, torch.Tensor) else tensor.dequantize()
            assert torch.equal(plain, open_weights(source).block(0)[key])


def test_parts_of_a_matrix_with_two_widths_are_refused_by_name(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other builders store the rows of gate_up_proj apart."""

    def uneven(*arguments: Any) -> PlannedMatrices:
        plan = plan_matrices(*arguments)
        up = plan.blocks[1]["up_proj"]
        second = {**plan.blocks[1], "up_proj": replace(up, storage=QuantScheme(8, 32))}
        return replace(plan, blocks=(plan.blocks[0], second))

    monkeypatch.setattr("converters.onnx.writer.plan_matrices", uneven)
    recipe = Recipe("rtn", formats=("onnx",))
    folder = quantize(wide, tmp_path / "source", recipe).folders["onnx"]
    assert open_model(folder).format == "ONNX int4 sym g32 and int8 sym g32"
    with pytest.raises(SchemeError, match=r"parts of gate_up_proj in layer 1 as int4 .* and int8"):
        export(folder, tmp_path / "out", "gptq")
    assert parts_of(open_model(folder)).schemes is None
