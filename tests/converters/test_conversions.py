"""Every readable packed layout into every writable one and back, and into plain checkpoints."""

import json
from collections.abc import Iterator, Mapping
from itertools import permutations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Phi3ForCausalLM

from converters import LAYOUTS, open_weights
from converters.packed.mlx_options import MlxOptions
from converters.packed.reader import PackedCheckpoint
from converters.plain import FLOAT_TYPES
from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.model.architecture import EMBEDDING, HEAD, LINEARS, block_tensor_name
from phi3quant.model.config_file import read_config
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.export import export_gguf, export_packed, export_safetensors
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.source.locate import locate
from tests.converters.packed.test_gptq import pack
from tests.converters.packed.test_layouts import can_hold
from tests.converters.spoiled import IDS, edit
from tests.models import make_model, own_logits

MODELS = {
    "mha tied": {"num_key_value_heads": 4, "tie_word_embeddings": True},
    "gqa untied": {"num_key_value_heads": 2},
}
SCHEMES = [
    *(QuantScheme(4, size, symmetric=sym) for size in (32, 64, 128, None) for sym in (True, False)),
    QuantScheme(8, 32),
    QuantScheme(8, None, symmetric=False),
]

# The other layouts leave embedding and head plain.
PLAIN_OUTER = MlxOptions("fp16", "fp16")


@pytest.fixture(scope="module", params=MODELS)
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide") / "model"
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1}
    make_model(folder, **sizes, **MODELS[request.param])
    return folder


@pytest.fixture(scope="module", params=SCHEMES, ids=str)
def packed(
    request: pytest.FixtureRequest, wide: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Path]:
    """Folders of every layout that holds a scheme, with the same codes."""
    config = read_config(wide)
    layouts = [name for name in LAYOUTS if can_hold(LAYOUTS[name], request.param, config)]
    out = tmp_path_factory.mktemp("packed") / "out"
    recipe = Recipe("rtn", request.param, tuple(layouts), mlx=PLAIN_OUTER)
    return quantize(wide, out, recipe).folders


def convert(source: Path, out: Path, layout: str) -> Path:
    return export_packed(source, out, layout=layout, mlx_options=PLAIN_OUTER).folders[layout]


def codes(folder: Path) -> Iterator[torch.Tensor]:
    """Codes, scales and zero points of every matrix."""
    model = open_weights(folder)
    assert isinstance(model, PackedCheckpoint)
    for index in range(model.config.num_hidden_layers):
        for key in LINEARS:
            tensor = model.quantized(index, key)
            yield from (tensor.codes, tensor.scales)
            zeros = tensor.zero_points
            yield torch.full(tensor.scales.shape, tensor.scheme.middle) if zeros is None else zeros


def assert_same(first: Path, second: Path) -> None:
    pairs = list(zip(codes(first), codes(second), strict=True))
    assert pairs
    assert all(torch.equal(one, other) for one, other in pairs)
    one, other = open_weights(first), open_weights(second)
    assert torch.equal(one.embedding(), other.embedding())
    assert torch.equal(one.head(), other.head())
    assert torch.equal(one.final_norm(), other.final_norm())
    assert one.config.tie_word_embeddings == other.config.tie_word_embeddings


@pytest.mark.parametrize("target", LAYOUTS)
def test_codes_survive_every_conversion_and_the_way_back(
    target: str, packed: Mapping[str, Path], tmp_path: Path
) -> None:
    for source, first in packed.items():
        out = tmp_path / source
        if target not in packed:
            with pytest.raises(SchemeError, match=r"AWQ-GEMM holds 4 bits, not 8|MLX has groups"):
                export_packed(first, out, layout=target)
            assert not out.exists()
            continue
        there = convert(first, out, target)
        assert_same(first, there)
        back = convert(there, tmp_path / f"{source}-back", source)
        assert_same(first, back)


def test_a_conversion_has_the_bytes_of_a_run(packed: Mapping[str, Path], tmp_path: Path) -> None:
    # AWQ-GEMM doesn't record whether its codes are symmetric, so it is only a target. MLX's offsets
    # show it.
    for source, target in permutations(packed, 2):
        if source == "awq-gemm":
            continue
        out = tmp_path / f"{source}-{target}"
        convert(packed[source], out, target)
        for name in ("model.safetensors", "config.json"):
            assert (out / name).read_bytes() == (packed[target] / name).read_bytes()


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_plain_weights_are_the_dequantized_codes(dtype: str, folder: Path, tmp_path: Path) -> None:
    (made,) = quantize(
        folder, tmp_path / "packed", Recipe("rtn", formats=("gptq",))
    ).folders.values()
    plain = export_safetensors(made, tmp_path / "plain", dtype=dtype).folders["safetensors"]
    stored, model = load_file(plain / "model.safetensors"), open_weights(made)
    wanted = getattr(torch, FLOAT_TYPES[dtype].torch_name)
    assert {tensor.dtype for tensor in stored.values()} == {wanted}
    for index in range(2):
        for key, weights in model.block(index).items():
            assert torch.equal(stored[block_tensor_name(index, key)], weights.to(wanted))
    assert torch.equal(stored[EMBEDDING], model.embedding().to(wanted))
    assert torch.equal(stored[HEAD], model.head().to(wanted))
    loaded = Phi3ForCausalLM.from_pretrained(plain, attn_implementation="eager").eval()
    assert loaded.dtype == wanted
    with torch.no_grad():
        expected = loaded.float()(IDS).logits
    assert (own_logits(open_weights(plain), IDS) - expected).abs().max() < 1e-3


def test_columns_in_another_order_are_dequantized(folder: Path, tmp_path: Path) -> None:
    pack(folder, by_index=True)
    for layout in LAYOUTS:
        with pytest.raises(SchemeError, match="not consecutive"):
            export_packed(folder, tmp_path / "packed", layout=layout)
    assert not (tmp_path / "packed").exists()
    plain = export_safetensors(folder, tmp_path / "plain", dtype="fp32").folders["safetensors"]
    stored, dense = (
        load_file(each / "model.safetensors") for each in (plain, folder.parent / "dense")
    )
    assert all(torch.allclose(stored[name], dense[name], atol=1e-6) for name in dense)


def test_a_plain_checkpoint_has_no_codes_to_convert(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match="choose that layout when you quantize it"):
        export_packed(folder, tmp_path / "out", layout="gptq")


def test_gguf_is_refused(folder: Path, tmp_path: Path) -> None:
    file = export_gguf(folder, tmp_path / "gguf").folders["gguf"]
    with pytest.raises(CheckpointError, match="is GGUF F16 already"):
        export_safetensors(file, tmp_path / "out")


@pytest.mark.parametrize(("dtype", "value"), [("fp16", 1e5), ("bf16", 3.4e38)])
def test_values_beyond_the_type_are_refused(
    dtype: str, value: float, folder: Path, tmp_path: Path
) -> None:
    edit(folder, lambda tensors: tensors[EMBEDDING][0].fill_(value))
    with pytest.raises(CheckpointError, match=f"{EMBEDDING} has a value of .* doesn't fit"):
        export_safetensors(folder, tmp_path / "out", dtype=dtype)
    assert not (tmp_path / "out").exists()


def test_adapters_are_merged_into_a_plain_checkpoint(folder: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    module = "base_model.model.model.layers.1.self_attn.o_proj"
    shapes = {"lora_A": (2, 64), "lora_B": (64, 2)}
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file(
        {
            f"{module}.{name}.weight": torch.randn(shape, generator=generator) / 8
            for name, shape in shapes.items()
        },
        adapter / "adapter_model.safetensors",
    )
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["o_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    adapted = locate(folder, adapters=[str(adapter)])
    merged = export_safetensors(adapted, tmp_path / "out", dtype="fp32").folders["safetensors"]
    expected, plain = open_weights(adapted.path, adapted.adapters), open_weights(merged)
    before = open_weights(folder)
    for index in range(2):
        for key, weights in expected.block(index).items():
            assert torch.equal(plain.block(index)[key], weights)
    assert not torch.equal(plain.block(1)["o_proj"], before.block(1)["o_proj"])
