"""MLX folders: this project's own, and others with real offsets, packed here from the layout."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from converters import LAYOUTS, open_weights
from converters.gguf.reader import open_gguf
from converters.packed.mlx_options import MlxOptions
from converters.packed.reader import PackedCheckpoint
from phi3quant.errors import CheckpointError, Phi3QuantError, SchemeError
from phi3quant.model.architecture import LINEARS, block_tensor_name
from phi3quant.model.config_file import read_config
from phi3quant.quant.codecs.affine import quantize as quantize_affine
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.run.export import export_gguf, export_onnx, export_packed, export_safetensors
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.converters.packed.test_layouts import random_tensor
from tests.converters.spoiled import EMBEDDING, HEAD, IDS, QKV, configure, copy_of, edit
from tests.models import make_model, own_logits

MLX = LAYOUTS["mlx"]
GROUP = 32
Tensors = dict[str, torch.Tensor]


def codes_of(weight: torch.Tensor, bits: int, columns: int) -> np.ndarray:
    """Codes [rows, columns] of words whose lowest bits come first."""
    words = weight.view(torch.int32).numpy().view(np.uint32)
    fields = words[:, :, None] >> np.arange(0, 32, bits, dtype=np.uint32)
    return (fields & np.uint32((1 << bits) - 1)).reshape(len(words), columns)


def weights_of(stored: Mapping[str, torch.Tensor], bits: int, group: int = GROUP) -> torch.Tensor:
    """Weights as MLX's documentation defines them, FP32."""
    scales = stored["scales"].float().repeat_interleave(group, dim=1)
    biases = stored["biases"].float().repeat_interleave(group, dim=1)
    codes = codes_of(stored["weight"], bits, scales.shape[1])
    return scales * torch.from_numpy(codes.astype(np.float32)) + biases


def packed_by_edge(weight: torch.Tensor, bits: int, dtype: torch.dtype) -> Tensors:
    """Pack a matrix as mx.quantize does: an end of each group is a bias, whatever the scale.

    Scales are negative where the largest weight is farther from zero than the smallest.
    """
    rows, columns = weight.shape
    groups = weight.float().view(rows, -1, GROUP)
    low, high = groups.amin(dim=-1), groups.amax(dim=-1)
    upside_down = high.abs() > low.abs()
    edge = torch.where(upside_down, high, low).to(dtype)
    scale = ((high - low) / ((1 << bits) - 1)).clamp(min=1e-7)
    scales = torch.where(upside_down, -scale, scale).to(dtype)
    codes = ((groups - edge.float()[..., None]) / scales.float()[..., None]).round()
    codes = codes.clamp(0, (1 << bits) - 1).to(torch.uint8).view(rows, columns)
    shifts = torch.arange(0, 32, bits)
    words = (codes.view(rows, -1, 32 // bits).long() << shifts).sum(dim=-1)
    stored = torch.from_numpy(words.numpy().astype(np.uint32))
    return {"weight": stored, "scales": scales, "biases": edge}


def pack(
    folder: Path, dtype: torch.dtype = torch.float16, bits: int = 4, outer: int | None = None
) -> None:
    """Pack a checkpoint with real offsets; ``folder``'s plain twin is ``dense``.

    Args:
        folder: plain checkpoint.
        dtype: type of scales and offsets.
        bits: of the blocks' codes.
        outer: bits of embedding and head; None to leave them plain.
    """
    tensors = load_file(folder / "model.safetensors")
    dense = dict(tensors)
    names = {block_tensor_name(index, key): bits for index in range(2) for key in LINEARS}
    names |= {} if outer is None else {name: outer for name in (EMBEDDING, HEAD) if name in tensors}
    for name, width in names.items():
        stored = packed_by_edge(tensors.pop(name), width, dtype)
        dense[name] = weights_of(stored, width)
        tensors |= {name.removesuffix("weight") + end: part for end, part in stored.items()}
    copy_of(folder, folder.parent / "dense")
    save_file(dense, folder.parent / "dense" / "model.safetensors", metadata={"format": "pt"})
    save_file(tensors, folder / "model.safetensors", metadata={"format": "mlx"})
    described: dict[str, Any] = {"group_size": GROUP, "bits": bits, "mode": "affine"}
    if outer is not None:
        for module in ("model.embed_tokens", "lm_head"):
            if f"{module}.scales" in tensors:
                described[module] = {"group_size": GROUP, "bits": outer}
    configure(folder, quantization=described, quantization_config=described)


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = open_weights(one), open_weights(other)
    for index in range(2):
        for key, weights in first.block(index).items():
            assert torch.equal(weights, second.block(index)[key])


def own(folder: Path, scheme: QuantScheme) -> Path:
    out = folder.parent / f"own {scheme}"
    recipe = Recipe("rtn", scheme, ("mlx",), mlx=MlxOptions("fp16", "fp16"))
    return quantize(folder, out, recipe).folders["mlx"]


def test_golden_words() -> None:
    codes = (torch.arange(32) % 16).to(torch.uint8)[None]
    scales = torch.tensor([[0.5]], dtype=torch.float16)
    stored = MLX.pack(QuantizedTensor(QuantScheme(), codes, scales, None))
    words = [0x76543210, 0xFEDCBA98]
    assert stored["weight"].view(torch.int32).numpy().view(np.uint32).tolist() == [words * 2]
    assert stored["biases"].tolist() == [[-4.0]]


@settings(max_examples=40, deadline=None)
@given(
    width=st.sampled_from([4, 8]),
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
    stored = MLX.pack(tensor)
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
    with pytest.raises(CheckpointError, match="offset that doesn't fit FP16"):
        MLX.pack(QuantizedTensor(QuantScheme(), tensor.codes, tensor.scales * 8000, None))


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bits", [4, 8])
def test_real_offsets_are_read_exactly(folder: Path, dtype: torch.dtype, bits: int) -> None:
    pack(folder, dtype, bits)
    scales = load_file(folder / "model.safetensors")[QKV + "scales"]
    assert (scales < 0).any()
    dense = folder.parent / "dense"
    assert_same_weights(folder, dense)
    assert torch.equal(own_logits(open_weights(folder), IDS), own_logits(open_weights(dense), IDS))
    out = export_safetensors(folder, folder.parent / "plain", dtype="fp32").folders["safetensors"]
    assert_same_weights(out, dense)


def test_real_offsets_are_refused_where_zero_points_are_stored(folder: Path) -> None:
    pack(folder)
    out = folder.parent / "out"
    for layout in LAYOUTS:
        with pytest.raises(SchemeError, match="not whole multiples of its scales"):
            export_packed(folder, out, layout=layout)
    with pytest.raises(SchemeError, match="export gguf"):
        export_onnx(folder, out)
    assert not out.exists()


def test_real_offsets_are_minima_of_q4_1(folder: Path) -> None:
    pack(folder)
    out = export_gguf(folder, folder.parent / "out").folders["gguf"]
    assert open_gguf(out).format == "GGUF Q4_1"
    assert_same_weights(out, folder)


def test_scales_beyond_fp16_are_read_and_not_exported_as_codes(folder: Path) -> None:
    pack(folder, torch.float32)
    with pytest.raises(SchemeError, match="don't fit FP16, so the target can't store its codes"):
        export_gguf(folder, folder.parent / "out")


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
    assert opened.with_codes().scheme == scheme
    made = export_packed(out, folder.parent / "out", layout="compressed-tensors").folders
    converted = open_weights(made["compressed-tensors"])
    assert isinstance(converted, PackedCheckpoint)
    assert converted.scheme == scheme
    for key in LINEARS:
        codes, first = converted.quantized(0, key), before.with_codes().quantized(0, key)
        assert torch.equal(codes.codes, first.codes)
        if not symmetric:
            assert codes.zero_points is not None
            assert first.zero_points is not None
            assert torch.equal(codes.zero_points, first.zero_points)


@pytest.mark.parametrize("variant", ["gqa", "tied"])
@pytest.mark.parametrize("outer", [4, 8])
def test_a_packed_embedding_and_head_are_read(
    variant: str, outer: int, checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy_of(checkpoint_folder(variant), tmp_path / "model")
    pack(folder, outer=outer)
    dense = open_weights(tmp_path / "dense")
    opened = open_weights(folder)
    assert torch.equal(opened.embedding(), dense.embedding())
    assert torch.equal(opened.head(), dense.head())
    assert torch.equal(own_logits(opened, IDS), own_logits(dense, IDS))
    out = export_gguf(folder, tmp_path / "out").folders["gguf"]
    assert_same_weights(out, folder)


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


def test_matrices_may_have_another_scheme(folder: Path) -> None:
    pack(folder, bits=4)
    name = block_tensor_name(1, "down_proj")
    plain = load_file(folder.parent / "dense" / "model.safetensors")
    stored = packed_by_edge(plain[name], 8, torch.float16)
    stem = name.removesuffix("weight")
    edit(folder, lambda tensors: tensors.update({stem + end: stored[end] for end in stored}))
    with pytest.raises(CheckpointError, match=r"config\.json requires U32"):
        open_weights(folder)
    described = {"group_size": GROUP, "bits": 4, stem.rstrip("."): {"group_size": GROUP, "bits": 8}}
    configure(folder, quantization=described, quantization_config=described)
    assert torch.equal(open_weights(folder).block(1)["down_proj"], weights_of(stored, 8))
    with pytest.raises(SchemeError, match="int8 asym g32 and the model int4 asym g32"):
        export_gguf(folder, folder.parent / "out")


def test_a_matrix_without_scales_is_plain(folder: Path) -> None:
    pack(folder)
    name = block_tensor_name(1, "down_proj")
    plain = load_file(folder.parent / "dense" / "model.safetensors")

    def change(tensors: Tensors) -> None:
        tensors[name] = plain[name]
        for ending in ("scales", "biases"):
            del tensors[name.replace("weight", ending)]

    edit(folder, change)
    assert_same_weights(folder, folder.parent / "dense")
    with pytest.raises(SchemeError, match="stores 1 matrix plain"):
        export_gguf(folder, folder.parent / "out")


DESCRIBED: dict[str, Any] = {"group_size": GROUP, "bits": 4}


@pytest.mark.parametrize("keys", [("quantization",), ("quantization_config",)])
def test_one_of_the_two_keys_is_enough(folder: Path, keys: tuple[str, ...]) -> None:
    pack(folder)
    values = dict.fromkeys(("quantization", "quantization_config"))
    configure(folder, **values | dict.fromkeys(keys, DESCRIBED))
    assert_same_weights(folder, folder.parent / "dense")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bits": ({"bits": 3}, "MLX with 3 bits isn't supported; it must have 4 or 8"),
    "bits as text": ({"bits": "4"}, "MLX with '4' bits"),
    "bits as bool": ({"bits": True}, "MLX with True bits"),
    "group": ({"group_size": 16}, "group_size 16 isn't supported; it must be 32, 64 or 128"),
    "mxfp4": ({"mode": "mxfp4"}, "mode 'mxfp4' isn't supported"),
    "nvfp4": ({"mode": "nvfp4", "group_size": 16}, "mode 'nvfp4' isn't supported"),
    "unknown": ({"rotation": "hadamard"}, "the unknown key 'rotation'"),
    "no module": ({"model.layers.9.mlp.down_proj": DESCRIBED}, "model.layers.9.mlp.down_proj"),
    "module's bits": ({"lm_head": {"group_size": 32, "bits": 6}}, "6 bits of lm_head"),
    "module's mode": ({"lm_head": {**DESCRIBED, "mode": "mxfp8"}}, "'mxfp8' of lm_head"),
    "module's key": ({"lm_head": {**DESCRIBED, "global_scale": True}}, "'global_scale'"),
    "module without bits": ({"lm_head": {"group_size": 32}}, "None bits of lm_head"),
    "plain head": ({"lm_head": DESCRIBED}, "entry for lm_head that doesn't fit"),
    "packed matrix": ({QKV.rstrip("."): False}, "as plain, but there is no plain tensor"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_key_that_is_not_applied_is_refused_by_name(folder: Path, kind: str) -> None:
    changes, message = REFUSED[kind]
    pack(folder)
    described = {**DESCRIBED, **changes}
    configure(folder, quantization=described, quantization_config=described)
    with pytest.raises(Phi3QuantError, match=message):
        open_weights(folder)


def test_keys_that_differ_are_refused(folder: Path) -> None:
    pack(folder)
    configure(folder, quantization_config={"quant_method": "gptq", **DESCRIBED})
    with pytest.raises(CheckpointError, match="quantization and quantization_config, which differ"):
        open_weights(folder)
    configure(folder, quantization=[4])
    with pytest.raises(CheckpointError, match="quantization is not an object"):
        open_weights(folder)


@pytest.mark.parametrize("ending", ["scales", "biases"])
def test_values_that_are_not_finite_are_refused(folder: Path, ending: str) -> None:
    pack(folder)
    edit(folder, lambda tensors: tensors[QKV + ending][0].fill_(torch.nan))
    with pytest.raises(CheckpointError, match="are not all finite"):
        open_weights(folder).block(0)
    with pytest.raises(CheckpointError, match="are not all finite"):
        export_gguf(folder, folder.parent / "out")


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
    with pytest.raises(SchemeError, match="there is no head fp32 in MLX"):
        MlxOptions(head="fp32")
