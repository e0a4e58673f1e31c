"""mlx-lm runs the folders of this project, and this project reads the folders of mlx-lm."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_map
from mlx_lm import load, stream_generate
from mlx_lm.convert import convert
from mlx_lm.sample_utils import make_sampler
from mlx_lm.utils import load_model

from converters import open_weights
from phi3quant.errors import SchemeError
from phi3quant.generation.generate import generate
from phi3quant.quant.scheme import BITS, QuantScheme
from phi3quant.run.export import export_gguf, export_packed, export_safetensors
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.models import VARIANTS, VOCABULARY, make_model, own_logits

IDS = torch.randint(0, VOCABULARY, (2, 60), generator=torch.Generator().manual_seed(4))
SMALL: Mapping[str, dict[str, Any]] = {
    name: VARIANTS[name] for name in ("gqa", "mha", "tied", "partial", "longrope")
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def in_full(model: Any) -> Any:
    """A model of mlx-lm that computes in FP32."""

    def convert_floats(array: Any) -> Any:
        return array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array

    model.update(tree_map(convert_floats, model.parameters()))
    return model


def logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """Logits by mlx-lm: FP32 [batch, positions, vocab]."""
    model, _ = load_model(folder)
    return torch.from_numpy(np.array(in_full(model)(mx.array(ids.numpy()))))


def difference(folder: Path, ids: torch.Tensor = IDS) -> float:
    return float((own_logits(open_weights(folder), ids) - logits(folder, ids)).abs().max())


@pytest.mark.parametrize("variant", SMALL)
@pytest.mark.parametrize("symmetric", [True, False])
def test_mlx_lm_computes_the_logits_of_small_models(
    variant: str, tmp_path: Path, *, symmetric: bool
) -> None:
    make_model(tmp_path / "model", **SMALL[variant])
    for bits in BITS:
        recipe = Recipe("rtn", QuantScheme(bits, 32, symmetric=symmetric), ("mlx",))
        (folder,) = quantize(tmp_path / "model", tmp_path / f"{bits}", recipe).folders.values()
        assert difference(folder) < 1e-2


@pytest.mark.parametrize("variant", ["gqa", "tied"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_mlx_lm_computes_the_logits_of_mixed_models(
    variant: str, tmp_path: Path, *, symmetric: bool
) -> None:
    make_model(tmp_path / "model", **SMALL[variant])
    scheme = QuantScheme(4, 32, symmetric=symmetric)
    recipe = Recipe("rtn", scheme, ("mlx",), tensor_types=("down_proj=int8", "0.*qkv_proj=int8"))
    (folder,) = quantize(tmp_path / "model", tmp_path / "out", recipe).folders.values()
    assert difference(folder) < 1e-2


def test_mixed_folders_of_mlx_lm_are_read(tmp_path: Path) -> None:
    make_model(tmp_path / "model", **SMALL["gqa"])
    out = tmp_path / "mlx"
    convert(
        str(tmp_path / "model"),
        str(out),
        quantize=True,
        q_group_size=32,
        quant_predicate=lambda path, _module: {
            "group_size": 32,
            "bits": 8 if "down_proj" in path else 4,
            "mode": "affine",
        },
    )
    assert open_weights(out).format == "MLX int4 asym g32 and int8 asym g32"
    assert difference(out) < 1e-2


@pytest.fixture(scope="module", params=[32, 64, 128])
def bundled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    scheme = QuantScheme(4, request.param, symmetric=request.param == 32)
    out = tmp_path_factory.mktemp("bundled") / "out"
    return quantize(None, out, Recipe("rtn", scheme, ("mlx",))).folders["mlx"]


def test_mlx_lm_computes_the_logits_of_the_bundled_model(bundled: Path) -> None:
    ids = torch.randint(0, 2000, (2, 200), generator=torch.Generator().manual_seed(5))
    assert difference(bundled, ids) < 1e-2


def test_mlx_lm_writes_the_same_text(bundled: Path) -> None:
    expected = generate(str(bundled), "What is the opposite of hot?", max_new_tokens=40)
    # In FP16, as phones run it.
    model, tokenizer = load(str(bundled))
    turns = [{"role": "user", "content": "What is the opposite of hot?"}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True)
    parts = stream_generate(model, tokenizer, prompt, max_tokens=40, sampler=make_sampler(0.0))
    assert "".join(part.text for part in parts) == expected.text


@pytest.mark.parametrize(
    ("variant", "dtype", "bits", "reason"),
    [
        ("gqa", "float16", 4, "not whole multiples"),
        ("tied", "bfloat16", 4, "not whole multiples"),
        ("mha", "float32", 8, "don't fit FP16"),
    ],
)
def test_folders_of_mlx_lm_are_read(
    variant: str, dtype: str, bits: int, reason: str, tmp_path: Path
) -> None:
    make_model(tmp_path / "model", **SMALL[variant])
    out = tmp_path / "mlx"
    convert(
        str(tmp_path / "model"), str(out), quantize=True, q_group_size=32, q_bits=bits, dtype=dtype
    )
    # mlx-lm packs the embedding too, and its offsets are no multiples of its scales.
    assert difference(out) < 1e-2
    with pytest.raises(SchemeError, match=reason):
        export_packed(out, tmp_path / "gptq", layout="gptq")


def test_dequantized_weights_are_those_of_mlx(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    out = tmp_path / "mlx"
    convert(str(tmp_path / "model"), str(out), quantize=True, q_group_size=32, dtype="float16")
    stored: Any = mx.load(str(out / "model.safetensors"))
    opened = open_weights(out)
    name = "model.layers.1.mlp.down_proj."
    scales, biases = (stored[name + end].astype(mx.float32) for end in ("scales", "biases"))
    full = mx.dequantize(stored[name + "weight"], scales, biases, group_size=32, bits=4)
    assert np.array_equal(np.array(full), opened.block(1)["down_proj"].numpy())
    # Q4_1 stores the same offsets.
    gguf = export_gguf(out, tmp_path / "gguf").folders["gguf"]
    assert torch.equal(open_weights(gguf).block(1)["down_proj"], opened.block(1)["down_proj"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"q_mode": "mxfp4"}, "mode 'mxfp4'"), ({"q_mode": "nvfp4"}, "mode 'nvfp4'")],
)
def test_other_modes_of_mlx_lm_are_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    make_model(tmp_path / "model")
    convert(str(tmp_path / "model"), str(tmp_path / "mlx"), quantize=True, **settings)
    with pytest.raises(SchemeError, match=message):
        open_weights(tmp_path / "mlx")


@pytest.mark.parametrize("bits", BITS)
def test_weights_of_every_width_are_those_of_mlx(bits: int, tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    out = tmp_path / "mlx"
    convert(
        str(tmp_path / "model"),
        str(out),
        quantize=True,
        q_group_size=32,
        q_bits=bits,
        dtype="float16",
    )
    stored: Any = mx.load(str(out / "model.safetensors"))
    plain = export_safetensors(out, tmp_path / "plain", dtype="fp32").folders["safetensors"]
    opened = open_weights(plain)
    for key, module in {"down_proj": "mlp.down_proj", "qkv_proj": "self_attn.qkv_proj"}.items():
        name = f"model.layers.1.{module}."
        scales, biases = (stored[name + end].astype(mx.float32) for end in ("scales", "biases"))
        full = mx.dequantize(stored[name + "weight"], scales, biases, group_size=32, bits=bits)
        assert np.array_equal(np.array(full), opened.block(1)[key].numpy())


@pytest.mark.parametrize("recipe", ["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"])
def test_mixed_recipes_of_mlx_lm_are_read(recipe: str, tmp_path: Path) -> None:
    make_model(tmp_path / "model", num_hidden_layers=4, hidden_size=128, intermediate_size=256)
    out = tmp_path / "mlx"
    convert(
        str(tmp_path / "model"),
        str(out),
        quantize=True,
        q_group_size=64,
        quant_predicate=recipe,
        dtype="float16",
    )
    assert difference(out) < 1e-2
    with pytest.raises(SchemeError, match="not whole multiples"):
        export_packed(out, tmp_path / "gptq", layout="gptq")


def test_a_mixture_of_mlx_lm_is_read(tmp_path: Path) -> None:
    def mixed(path: str, _module: object) -> dict[str, Any]:
        return {"bits": 8 if "down_proj" in path or "lm_head" in path else 4, "group_size": 32}

    make_model(tmp_path / "model")
    out = tmp_path / "mlx"
    convert(
        str(tmp_path / "model"), str(out), quantize=True, q_group_size=32, quant_predicate=mixed
    )
    assert difference(out) < 1e-2


def test_mlx_lm_reads_codes_of_the_bundled_model_from_other_layouts(tmp_path: Path) -> None:
    recipe = Recipe("rtn", QuantScheme(4, 64, symmetric=False), ("gptq", "mlx"))
    folders = quantize(None, tmp_path / "out", recipe).folders
    made = export_packed(folders["gptq"], tmp_path / "mlx", layout="mlx").folders["mlx"]
    for name in ("model.safetensors", "config.json"):
        assert (made / name).read_bytes() == (folders["mlx"] / name).read_bytes()
    assert difference(made) < 1e-2
