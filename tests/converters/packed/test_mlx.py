"""MLX folders that this project writes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from converters import LAYOUTS, open_weights
from converters.packed.mlx_options import MlxOptions
from converters.packed.reader import PackedCheckpoint
from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.model.architecture import LINEARS
from phi3quant.model.config_file import read_config
from phi3quant.quant.codecs.affine import quantize as quantize_affine
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import BITS, QuantScheme
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.run.export import export_packed
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.converters.packed.mlx_folders import Tensors, packed_by_edge, weights_of
from tests.converters.packed.test_layouts import random_tensor
from tests.converters.spoiled import EMBEDDING, QKV, configure, copy_of, edit
from tests.models import make_model

MLX = LAYOUTS["mlx"]


def own(folder: Path, scheme: QuantScheme) -> Path:
    out = folder.parent / f"own {scheme}"
    recipe = Recipe("rtn", scheme, ("mlx",), mlx=MlxOptions("fp16", "fp16"))
    return quantize(folder, out, recipe).folders["mlx"]


def test_golden_words() -> None:
    codes = (torch.arange(32) % 16).to(torch.uint8)[None]
    scales = torch.tensor([[0.5]], dtype=torch.float16)
    tensor = QuantizedTensor(QuantScheme(), codes, scales, None)
    stored = MLX.pack(tensor, MatrixSchemes(QuantScheme()))
    words = [0x76543210, 0xFEDCBA98]
    assert stored["weight"].view(torch.int32).numpy().view(np.uint32).tolist() == [words * 2]
    assert stored["biases"].tolist() == [[-4.0]]


@settings(max_examples=40, deadline=None)
@given(
    width=st.sampled_from(BITS),
    size=st.sampled_from([32, 64, 128]),
    symmetric=st.booleans(),
    seed=st.integers(0, 99),
    factor=st.sampled_from([-1.0, 2.0**-10, 2.0**-20, 2.0**-24]),
)
def test_codes_scales_and_zero_points_survive_packing(
    *, width: int, size: int, symmetric: bool, seed: int, factor: float
) -> None:
    scheme = QuantScheme(width, size, symmetric=symmetric)
    tensor = random_tensor(5, 256, scheme, seed)
    tensor = QuantizedTensor(
        scheme,
        tensor.codes,
        tensor.scales.sign() * (tensor.scales * factor).abs().clamp(2**-24),
        tensor.zero_points,
    )
    stored = MLX.pack(tensor, MatrixSchemes(scheme))
    again = MLX.unpack(stored, tensor.shape, scheme)
    assert torch.equal(again.codes, tensor.codes)
    assert torch.equal(again.scales, tensor.scales)
    if tensor.zero_points is None:
        assert again.zero_points is None
    else:
        assert again.zero_points is not None
        assert torch.equal(again.zero_points, tensor.zero_points)
    assert MLX.unpack_offsets is not None
    weights = MLX.unpack_offsets(stored, tensor.shape, scheme).dequantize()
    assert torch.equal(weights, weights_of(stored, width, size))


def test_an_offset_beyond_fp16_is_refused() -> None:
    tensor = random_tensor(2, 32, QuantScheme())
    large = QuantizedTensor(QuantScheme(), tensor.codes, tensor.scales * 8000, None)
    with pytest.raises(CheckpointError, match="offset that doesn't fit FP16"):
        MLX.pack(large, MatrixSchemes(QuantScheme()))


def test_a_folder_is_described_for_mlx(folder: Path) -> None:
    out = own(folder, QuantScheme(4, 32))
    raw = json.loads((out / "config.json").read_text())
    assert raw["quantization"] == raw["quantization_config"] == {"group_size": 32, "bits": 4}
    with safe_open(out / "model.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"format": "mlx"}
        assert opened.get_tensor(QKV + "weight").dtype == torch.uint32


@pytest.mark.parametrize("variant", ["longrope", "partial", "gqa"])
def test_a_rotation_is_written_in_the_keys_of_mlx_lm(
    variant: str, checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    source = checkpoint_folder(variant)
    copy_of(source, tmp_path / "model")
    out = own(tmp_path / "model", QuantScheme(4, 32))
    config, raw = read_config(source), json.loads((out / "config.json").read_text())
    assert read_config(out) == config
    assert raw.get("rope_theta", 10000.0) == config.rope_theta
    assert raw.get("partial_rotary_factor", 1.0) == config.rotary_dim / config.head_dim
    scaling = raw.get("rope_scaling")
    if config.long_rope is None:
        assert not scaling
    else:
        assert scaling["type"] == "longrope"
        assert tuple(scaling["long_factor"]) == config.long_rope.long_factor


def test_differences_of_mlx_lm_are_notes(
    checkpoint_folder: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for variant, note in {"window": "no sliding window", "longrope": "long factors"}.items():
        copy_of(checkpoint_folder(variant), tmp_path / variant / "model")
        own(tmp_path / variant / "model", QuantScheme(4, 32))
        assert note in caplog.text
        caplog.clear()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("symmetric", [True, False])
def test_offsets_of_zero_points_in_another_type_are_zero_points(
    folder: Path, dtype: torch.dtype, *, symmetric: bool
) -> None:
    scheme = QuantScheme(4, 32, symmetric=symmetric)
    out = own(folder, scheme)
    before = open_weights(out)
    assert isinstance(before, PackedCheckpoint)

    def convert(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith(".scales")]:
            scales = tensors[name].bfloat16()
            zeros = -tensors[name.replace("scales", "biases")].float() / tensors[name].float()
            tensors[name] = scales.to(dtype)
            biases = (-scales.float() * zeros.round()).to(dtype)
            tensors[name.replace("scales", "biases")] = biases

    edit(out, convert)
    opened = open_weights(out)
    assert isinstance(opened, PackedCheckpoint)
    assert opened.with_codes().schemes == MatrixSchemes(scheme)
    made = export_packed(out, folder.parent / "out", layout="compressed-tensors").folders
    converted = open_weights(made["compressed-tensors"])
    assert isinstance(converted, PackedCheckpoint)
    assert converted.schemes == MatrixSchemes(scheme)
    for key in LINEARS:
        codes, first = converted.quantized(0, key), before.with_codes().quantized(0, key)
        assert torch.equal(codes.codes, first.codes)
        if not symmetric:
            assert codes.zero_points is not None
            assert first.zero_points is not None
            assert torch.equal(codes.zero_points, first.zero_points)


def test_a_packed_embedding_becomes_floats_in_other_layouts(folder: Path) -> None:
    out = own(folder, QuantScheme(4, 32))
    stored = packed_by_edge(load_file(folder / "model.safetensors")[EMBEDDING], 8, torch.float16)

    def change(tensors: Tensors) -> None:
        tensors |= {EMBEDDING.removesuffix("weight") + end: part for end, part in stored.items()}

    edit(out, change)
    described = {"group_size": 32, "bits": 4, "model.embed_tokens": {"group_size": 32, "bits": 8}}
    configure(out, quantization=described, quantization_config=described)
    made = export_packed(out, folder.parent / "gptq", layout="gptq").folders["gptq"]
    assert torch.equal(open_weights(made).embedding(), weights_of(stored, 8).half().float())
    assert "quantization" not in json.loads((made / "config.json").read_text())


def test_heads_of_another_size_are_refused(tmp_path: Path) -> None:
    make_model(tmp_path / "model", head_dim=32)
    with pytest.raises(SchemeError, match="this model has head_dim 32"):
        own(tmp_path / "model", QuantScheme(4, 32))


@pytest.mark.parametrize("variant", ["gqa", "tied"])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_embedding_and_head_are_rounded_to_nearest(
    variant: str, kind: str, checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    source = checkpoint_folder(variant)
    recipe = Recipe("rtn", QuantScheme(4, 32), ("mlx",), mlx=MlxOptions(head=kind))
    out = quantize(source, tmp_path / "out", recipe).folders["mlx"]
    plain, opened = open_weights(source), open_weights(out)
    head = quantize_affine(plain.head(), QuantScheme(int(kind[3:]), 32, symmetric=kind == "int8"))
    assert isinstance(opened, PackedCheckpoint)
    stored = opened.head()
    if kind == "int8":
        assert torch.equal(stored, head.dequantize())
    else:
        # Offsets are rounded to FP16.
        assert torch.allclose(stored, head.dequantize(), atol=1e-3)
    quantization = json.loads((out / "config.json").read_text())["quantization"]
    bits = {"group_size": 32, "bits": int(kind[3:])}
    if variant == "tied":
        assert torch.equal(opened.embedding(), stored)
        assert quantization == {"group_size": 32, "bits": 4, "model.embed_tokens": bits}
    else:
        embedding = {"group_size": 32, "bits": 8}
        assert quantization["model.embed_tokens"] == embedding
        assert quantization["lm_head"] == bits


def test_8_bits_of_embedding_and_head_survive_layouts_that_store_fp16(
    folder: Path, tmp_path: Path
) -> None:
    recipe = Recipe("rtn", QuantScheme(4, 32), ("mlx",))
    out = quantize(folder, tmp_path / "out", recipe).folders["mlx"]
    there = export_packed(out, tmp_path / "there", layout="gptq").folders["gptq"]
    back = export_packed(there, tmp_path / "back", layout="mlx").folders["mlx"]
    assert (back / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_a_tied_model_has_one_type_for_embedding_and_head(
    checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    recipe = Recipe("rtn", formats=("mlx",), mlx=MlxOptions("int4", "int8"))
    with pytest.raises(SchemeError, match="can't store it as int4 and as int8"):
        quantize(checkpoint_folder("tied"), tmp_path / "out", recipe)
    config = read_config(checkpoint_folder("tied"))
    assert MlxOptions(embedding="int4").settled(config).head == "int8"
    assert MlxOptions(embedding="fp16").settled(config).head == "fp16"
    assert MlxOptions(head="int4").settled(config).embedding == "int4"
    with pytest.raises(SchemeError, match="there is no head fp32 in MLX"):
        MlxOptions(head="fp32")
