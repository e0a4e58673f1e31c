"""MLX folders by other tools, with real offsets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from converters import LAYOUTS, open_weights
from converters.gguf.reader import open_gguf
from converters.gguf.type_policy import file_type
from phi3quant.cli.main import main
from phi3quant.errors import CheckpointError, Phi3QuantError, SchemeError
from phi3quant.model.architecture import block_tensor_name
from phi3quant.quant.scheme import BITS
from phi3quant.run.export import export_gguf, export_onnx, export_packed, export_safetensors
from tests.converters.packed.mlx_folders import GROUP, Tensors, pack, packed_by_edge, weights_of
from tests.converters.spoiled import IDS, QKV, configure, copy_of, edit
from tests.models import make_model, own_logits


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = open_weights(one), open_weights(other)
    for index in range(2):
        for key, weights in first.block(index).items():
            assert torch.equal(weights, second.block(index)[key])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bits", BITS)
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
    for layout in LAYOUTS.keys() - {"mlx"}:
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


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_real_offsets_stay_in_mlx(folder: Path, bits: int) -> None:
    """Embedding and head, which were plain, are packed by default."""
    pack(folder, bits=bits)
    out = export_packed(folder, folder.parent / "out", layout="mlx").folders["mlx"]
    before, after = (load_file(made / "model.safetensors") for made in (folder, out))
    packed = [name for name in before if f"{name.rpartition('.')[0]}.scales" in before]
    assert packed
    assert all(torch.equal(after[name], before[name]) for name in packed)


def test_scales_beyond_fp16_are_read_and_not_exported_as_codes(folder: Path) -> None:
    pack(folder, torch.float32)
    with pytest.raises(SchemeError, match="don't fit FP16, so the target can't store its codes"):
        export_gguf(folder, folder.parent / "out")


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
    with pytest.raises(SchemeError, match=r"1\.mlp\.down_proj\.weight: GGUF has no type for int8"):
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
    "bits": ({"bits": 7}, "MLX with 7 bits isn't supported; it must have 2, 3, 4, 5, 6 or 8"),
    "other bits": ({"bits": 6}, r"config\.json requires U32 \[128, 12\]"),
    "bits as text": ({"bits": "4"}, "MLX with '4' bits"),
    "bits as bool": ({"bits": True}, "MLX with True bits"),
    "group": ({"group_size": 16}, "group_size 16 isn't supported; it must be 32, 64 or 128"),
    "mxfp4": ({"mode": "mxfp4"}, "mode 'mxfp4' isn't supported"),
    "nvfp4": ({"mode": "nvfp4", "group_size": 16}, "mode 'nvfp4' isn't supported"),
    "unknown": ({"rotation": "hadamard"}, "the unknown key 'rotation'"),
    "no module": ({"model.layers.9.mlp.down_proj": DESCRIBED}, "model.layers.9.mlp.down_proj"),
    "module's bits": ({"lm_head": {"group_size": 32, "bits": 7}}, "7 bits of lm_head"),
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


def test_the_command_rounds_again_if_that_is_wanted(tmp_path: Path) -> None:
    make_model(tmp_path / "model", hidden_size=128, intermediate_size=256)
    file = export_gguf(tmp_path / "model", tmp_path / "gguf", kind=file_type("q5_0"))
    words = ["export", "mlx", str(file.folders["gguf"]), "-o", str(tmp_path / "out"), "--no-verify"]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2
    assert "--requantize" in refused.stderr
    assert CliRunner().invoke(main, [*words, "--requantize"]).exit_code == 0
    assert open_weights(tmp_path / "out").format == "MLX int4 asym g32"
