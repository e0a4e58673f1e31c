"""Every readable quantized format into every writable one and back, and into plain checkpoints."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import permutations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Phi3ForCausalLM

from converters import FORMATS, LAYOUTS, open_model, open_weights, parts_of
from converters.gguf.type_policy import file_type
from converters.packed.mlx_options import MlxOptions
from converters.plain import FLOAT_TYPES
from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.model.architecture import EMBEDDING, HEAD, LINEARS, block_tensor_name
from phi3quant.model.config import Phi3Config
from phi3quant.quant.codecs import affine
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.export import export_gguf, export_onnx, export_packed, export_safetensors
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.source.locate import locate
from phi3quant.source.tokenizer import load_tokenizer
from tests.converters.packed.gptq_folders import pack
from tests.converters.spoiled import IDS, edit
from tests.models import make_model, own_logits

MODELS = {
    "mha tied": {"num_key_value_heads": 4, "tie_word_embeddings": True},
    "gqa untied": {"num_key_value_heads": 2},
}
SCHEMES = [
    QuantScheme(4, 32),
    QuantScheme(4, 32, symmetric=False),
    QuantScheme(4, 64, symmetric=False),
    QuantScheme(4, 128),
    QuantScheme(4, None, symmetric=False),
    QuantScheme(8, 32),
    QuantScheme(8, None, symmetric=False),
    QuantScheme(3, 32),
    QuantScheme(3, 64, symmetric=False),
]

# The other layouts leave embedding and head plain.
PLAIN_OUTER = MlxOptions("fp16", "fp16")


EXPORTS: Mapping[str, Callable[..., Artifacts]] = {
    **{name: partial(export_packed, layout=name, mlx_options=PLAIN_OUTER) for name in LAYOUTS},
    "gguf": export_gguf,
    "onnx": export_onnx,
}


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
    """Folders of every format that holds a scheme, with the same codes."""
    config = open_weights(wide).config
    out = tmp_path_factory.mktemp("packed") / "out"
    recipe = Recipe("rtn", request.param, holding(request.param, config), mlx=PLAIN_OUTER)
    return quantize(wide, out, recipe).folders


def holding(scheme: QuantScheme, config: Phi3Config) -> tuple[str, ...]:
    """Formats that hold a scheme."""
    formats = []
    for name, entry in FORMATS.items():
        with suppress(SchemeError):
            entry.check(MatrixSchemes(scheme), config)
            formats.append(name)
    return tuple(formats)


def codes(folder: Path) -> Iterator[torch.Tensor]:
    """Codes, scales and zero points of every matrix, each group as many of GGUF's blocks."""
    model = open_model(folder)
    parts = parts_of(model)
    for index in range(model.config.num_hidden_layers):
        block = parts.block(index)
        for key in LINEARS:
            tensor = block[key]
            assert isinstance(tensor, QuantizedTensor)
            repeats = tensor.scheme.group_width(tensor.shape[1]) // 32
            zeros = tensor.zero_points
            if zeros is None:
                zeros = torch.full(tensor.scales.shape, tensor.scheme.middle, dtype=torch.uint8)
            yield tensor.codes
            yield from (part.repeat_interleave(repeats, 1) for part in (tensor.scales, zeros))


def assert_same(first: Path, second: Path) -> None:
    pairs = list(zip(codes(first), codes(second), strict=True))
    assert pairs
    assert all(torch.equal(one, other) for one, other in pairs)
    one, other = open_model(first), open_model(second)
    # GGUF and ONNX hold norms in FP32.
    norms = (parts_of(model).final_norm().half() for model in (one, other))
    assert torch.equal(*norms)
    assert one.config.tie_word_embeddings == other.config.tie_word_embeddings


def export(model: Path, output: Path, name: str) -> Path:
    return EXPORTS[name](model, output).folders[name]


@pytest.mark.parametrize("target", FORMATS)
def test_codes_survive_every_conversion_and_the_way_back(
    target: str, packed: Mapping[str, Path], tmp_path: Path
) -> None:
    for source, first in packed.items():
        out = tmp_path / source
        if target not in packed:
            if source == "gguf" and target != "awq-gemm":
                # Its scales for whole rows are scales for blocks, which other formats hold.
                continue
            with pytest.raises(
                SchemeError, match=r"holds 4|GGUF has no type|no scale for|MLX has groups"
            ):
                export(first, out, target)
            assert not out.exists()
            continue
        there = export(first, out, target)
        assert_same(first, there)
        back = export(there, tmp_path / f"{source}-back", source)
        assert_same(first, back)


def test_a_conversion_has_the_bytes_of_a_run(packed: Mapping[str, Path], tmp_path: Path) -> None:
    # AWQ-GEMM doesn't record whether its codes are symmetric, so it is only a target. MLX's offsets
    # show it.
    for source, target in permutations(set(packed) - {"gguf", "onnx"}, 2):
        if source == "awq-gemm":
            continue
        out = tmp_path / f"{source}-{target}"
        export(packed[source], out, target)
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


@pytest.mark.parametrize("kind", ["q4_k_m", "q4_1", "q6_k"])
def test_codes_are_rounded_again_only_if_that_is_wanted(
    kind: str, wide: Path, tmp_path: Path
) -> None:
    """K-quants and minima of Q4_1 that are no zero points have no place in other formats."""
    file = export_gguf(wide, tmp_path / "gguf", kind=file_type(kind)).folders["gguf"]
    writes: Mapping[str, Callable[..., Artifacts]]
    writes = {**EXPORTS, "gguf": partial(export_gguf, kind=file_type("q4_0"))}
    if kind == "q4_1":
        # Such minima are MLX's offsets.
        del writes["mlx"]
    for name, write in writes.items():
        out = tmp_path / f"out-{name}"
        with pytest.raises(SchemeError, match="requantize=True"):
            write(file, out)
        assert not out.exists()
        made = write(file, out, requantize=True).folders[name]
        coarse, fine = parts_of(open_model(made)).block(0), open_weights(file).block(0)
        for key in LINEARS:
            expected = affine.quantize(fine[key], QuantScheme())
            assert torch.equal(coarse[key].dequantize(), expected.dequantize()) or name == "gguf"


def test_minima_of_q4_1_are_offsets_of_mlx(wide: Path, tmp_path: Path) -> None:
    file = export_gguf(wide, tmp_path / "gguf", kind=file_type("q4_1")).folders["gguf"]
    folder = EXPORTS["mlx"](file, tmp_path / "mlx").folders["mlx"]
    again = export_gguf(folder, tmp_path / "again").folders["gguf"]
    blocks = [open_weights(made).block(0) for made in (file, folder, again)]
    for other in blocks[1:]:
        assert all(torch.equal(other[key], blocks[0][key]) for key in LINEARS)


def test_a_second_rounding_into_gguf_is_refused(wide: Path, tmp_path: Path) -> None:
    packed = quantize(wide, tmp_path / "packed", Recipe("rtn")).folders["compressed-tensors"]
    with pytest.raises(SchemeError, match=r"int4 sym g32 codes, which Q8_0 .* round a second time"):
        export_gguf(packed, tmp_path / "out", kind=file_type("q8_0"))
    export_gguf(packed, tmp_path / "plain", kind=file_type("f32"))
    export_gguf(packed, tmp_path / "out", kind=file_type("q8_0"), requantize=True)


def test_a_gguf_file_becomes_a_checkpoint_of_its_own(folder: Path, tmp_path: Path) -> None:
    """Weights, configuration, tokens and template, from nothing but the file."""
    made = export_gguf(folder, tmp_path / "gguf", kind=file_type("f16")).folders["gguf"]
    (file,) = made.glob("*.gguf")
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(file.read_bytes())
    plain = export_safetensors(alone, tmp_path / "out", dtype="fp32").folders["safetensors"]
    again, source = open_weights(plain), open_weights(file)
    assert replace(again.config, raw={}) == replace(source.config, raw={})
    for key, weights in source.block(1).items():
        assert torch.equal(again.block(1)[key], weights)
    loaded = Phi3ForCausalLM.from_pretrained(plain, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = loaded(IDS).logits
    assert (own_logits(again, IDS) - expected).abs().max() < 1e-4
    one, other = load_tokenizer(folder), load_tokenizer(plain)
    for text in ("Hello, world! 12345", "  two  spaces\n\nZürich 🙂", "<|user|>\nHi<|end|>\n"):
        assert one.encode(text) == other.encode(text)
    assert other.chat_template == one.chat_template
    assert other.special_tokens.get("bos_token") == "<s>"


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
