"""The ONNX graph: run beside transformers, its codes beside the packed ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import Phi3ForCausalLM

from converters import open_weights
from converters.onnx import reader as onnx_reader
from converters.onnx.data import place_of
from converters.onnx.options import OnnxOptions
from converters.onnx.reader import OnnxModel, at_levels, open_onnx
from converters.onnx.repack import NBits
from phi3quant.evaluation.perplexity import score
from phi3quant.quant.scheme import GROUP_SIZES, QuantScheme
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.run.export import export_onnx
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.converters.onnx.nbits import from_nbits
from tests.converters.onnx.runtime import Runtime
from tests.models import VARIANTS, VOCABULARY, make_model

GENERATOR = torch.Generator().manual_seed(5)
IDS = torch.randint(0, VOCABULARY, (1, 60), generator=GENERATOR)


def reference(folder: Path) -> Phi3ForCausalLM:
    return Phi3ForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()


@pytest.fixture(scope="module")
def plain(
    checkpoint_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A function that gives a variant in FP32, not quantized."""
    made: dict[str, Path] = {}

    def folder(variant: str) -> Path:
        if variant not in made:
            made[variant] = tmp_path_factory.mktemp(variant) / "onnx"
            export_onnx(checkpoint_folder(variant), made[variant])
        return made[variant]

    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(
    variant: str, checkpoint_folder: Callable[[str], Path], plain: Callable[[str], Path]
) -> None:
    """60 tokens: past the sliding window of one variant and LongRoPE's switch in another."""
    with torch.inference_mode():
        expected = reference(checkpoint_folder(variant))(IDS).logits
    assert float((Runtime(plain(variant)).once(IDS) - expected).abs().max()) < 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_prefill_then_decoding_equals_one_pass(variant: str, plain: Callable[[str], Path]) -> None:
    ids = IDS[:, :36]  # LongRoPE chooses for a whole text, so that this one stays short
    runtime = Runtime(plain(variant))
    expected = runtime.once(ids)
    runtime.start(1)
    parts = [runtime.run(ids[:, :20], torch.ones(1, 20))]
    parts += [
        runtime.run(ids[:, place : place + 1], torch.ones(1, place + 1)) for place in range(20, 36)
    ]
    assert float((torch.cat(parts, dim=1) - expected).abs().max()) < 1e-3


def test_long_rope_switches_where_transformers_does(
    checkpoint_folder: Callable[[str], Path], plain: Callable[[str], Path]
) -> None:
    runtime, model = Runtime(plain("longrope")), reference(checkpoint_folder("longrope"))
    before, after = IDS[:, :40], IDS[:, :41]
    with torch.inference_mode():
        for ids in (before, after):
            assert float((runtime.once(ids) - model(ids).logits).abs().max()) < 1e-3
    # The factors do matter: the same tokens come out differently on the other side.
    assert float((runtime.once(before) - runtime.once(after)[:, :40]).abs().max()) > 1e-2


@pytest.mark.parametrize("variant", ["gqa", "mha", "window"])
def test_texts_of_different_lengths_go_together(variant: str, plain: Callable[[str], Path]) -> None:
    """Padded on the right, then one more token each."""
    runtime = Runtime(plain(variant))
    texts = [IDS[0, :30], IDS[0, 30:42]]
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    mask = torch.stack([torch.arange(30) < len(text) for text in texts])
    more = torch.tensor([[7], [9]])
    runtime.start(2)
    together = runtime.run(ids, mask)
    added = runtime.run(more, torch.cat((mask, torch.ones(2, 1).bool()), dim=1))
    for number, text in enumerate(texts):
        alone = runtime.once(torch.cat((text, more[number]))[None])[0]
        assert float((together[number, : len(text)] - alone[:-1]).abs().max()) < 1e-3
        assert float((added[number, 0] - alone[-1]).abs().max()) < 1e-3


def test_opset_14_is_what_it_says_and_computes_the_same(
    checkpoint_folder: Callable[[str], Path], plain: Callable[[str], Path], tmp_path: Path
) -> None:
    export_onnx(checkpoint_folder("longrope"), tmp_path / "out", options=OnnxOptions(opset=14))
    graph = onnx.load_model(tmp_path / "out" / "model.onnx", load_external_data=False)
    assert graph.ir_version == 8
    assert {entry.domain: entry.version for entry in graph.opset_import} == {
        "": 14,
        "com.microsoft": 1,
    }
    attention = [node for node in graph.graph.node if node.op_type == "GroupQueryAttention"]
    assert {len(node.input) for node in attention} == {9}
    assert torch.equal(Runtime(tmp_path / "out").once(IDS), Runtime(plain("longrope")).once(IDS))


@pytest.mark.parametrize("window", [None, 13])
def test_the_window_is_the_configs(window: int | None, plain: Callable[[str], Path]) -> None:
    graph = open_onnx(plain("gqa" if window is None else "window")).graph
    for node in graph.graph.node:
        if node.op_type == "GroupQueryAttention":
            sizes = [entry.i for entry in node.attribute if entry.name == "local_window_size"]
            assert sizes == [window or -1]


SCHEMES = [
    *(QuantScheme(4, size) for size in GROUP_SIZES),
    QuantScheme(4, 64, symmetric=False),
    QuantScheme(8, 32),
    QuantScheme(8, 16, symmetric=False),
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_codes_are_those_of_the_packed_folder_and_score_the_same(
    scheme: QuantScheme, tmp_path: Path
) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}
    make_model(tmp_path / "model", **sizes)
    recipe = Recipe(
        "rtn",
        scheme,
        ("compressed-tensors", "onnx"),
        onnx=OnnxOptions(embedding="fp16", head="fp16"),
    )
    folders = quantize(tmp_path / "model", tmp_path / "out", recipe).folders
    packed: Any = open_weights(folders["compressed-tensors"])
    found = open_onnx(folders["onnx"])
    for name in ("qkv_proj", "o_proj", "down_proj"):
        home = "mlp" if name == "down_proj" else "self_attn"
        same(
            stored_codes(found, f"model.layers.0.{home}.{name}", scheme), packed.quantized(0, name)
        )
    fused = packed.quantized(0, "gate_up_proj")
    for name, start in (("gate_proj", 0), ("up_proj", 512)):
        rows = slice(start, start + 512)
        zeros = None if fused.zero_points is None else fused.zero_points[rows]
        part = QuantizedTensor(scheme, fused.codes[rows], fused.scales[rows], zeros)
        same(stored_codes(found, f"model.layers.0.mlp.{name}", scheme), part)
    windows = torch.randint(0, VOCABULARY, (4, 64), generator=GENERATOR)
    _, rounded, exact = score([packed, *at_levels(found).values()], windows)
    assert exact.ratio == pytest.approx(1, abs=1e-3)
    assert float(exact.kl.mean()) < 1e-5 < float(rounded.kl.mean())


def stored_codes(model: OnnxModel, name: str, scheme: QuantScheme) -> QuantizedTensor:
    """A matrix as it stands in the data file."""
    tensors = {tensor.name: tensor for tensor in model.graph.graph.initializer}
    kinds = {onnx.TensorProto.UINT8: np.uint8, onnx.TensorProto.FLOAT: np.float32}

    def load(ending: str) -> torch.Tensor:
        proto = tensors[f"{name}.{ending}"]
        place = place_of(proto, model.folder)
        kind = kinds[proto.data_type]
        count = place.nbytes // np.dtype(kind).itemsize
        raw = np.fromfile(model.folder / place.file, kind, count, offset=place.offset)
        return torch.from_numpy(raw).view(*proto.dims)

    zeros = None if scheme.symmetric else load("qzeros")
    return from_nbits(NBits(load("qweight"), load("scales").half(), zeros), scheme)


def same(found: QuantizedTensor, expected: QuantizedTensor) -> None:
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.scales, expected.scales)
    assert torch.equal(found.dequantize(), expected.dequantize())


LAYOUTS = [
    OnnxOptions(embedding="int4", head="int4"),
    OnnxOptions(embedding="int8", head="int4"),
    OnnxOptions(embedding="fp32", head="fp32"),
    OnnxOptions(io="fp16"),
    OnnxOptions(io="fp16", embedding="int4", head="fp16"),
    OnnxOptions(accuracy_level=0),
    OnnxOptions(opset=14),
    OnnxOptions(split_bytes=20_000),
]


@pytest.mark.parametrize("variant", ["gqa", "tied"])
@pytest.mark.parametrize(
    "layout", LAYOUTS, ids=lambda each: "-".join(map(str, vars(each).values()))
)
def test_every_layout_runs(
    layout: OnnxOptions, variant: str, checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    recipe = Recipe("rtn", QuantScheme(8, 32), ("compressed-tensors", "onnx"), onnx=layout)
    folders = quantize(checkpoint_folder(variant), tmp_path / "out", recipe).folders
    packed, found = open_weights(folders["compressed-tensors"]), open_onnx(folders["onnx"])
    windows = IDS.view(2, 30)
    ways = at_levels(found)
    assert list(ways) == [0] if layout.accuracy_level == 0 else [4, 0]
    compared = score([packed, *ways.values()], windows)[-1]
    four_bits = "int4" in (layout.embedding, layout.head)
    assert float(compared.kl.mean()) < (0.5 if four_bits else 0.05)
    assert Runtime(folders["onnx"]).once(IDS).shape == (1, 60, VOCABULARY)


@pytest.mark.parametrize("tokens", [2048, 17])
@pytest.mark.parametrize("variant", VARIANTS)
def test_long_windows_are_run_in_pieces_with_a_cache(
    variant: str,
    tokens: int,
    checkpoint_folder: Callable[[str], Path],
    plain: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnx_reader, "_RUN_TOKENS", tokens)
    windows = torch.randint(0, VOCABULARY, (3, 70), generator=GENERATOR)
    models: list[Any] = [open_weights(checkpoint_folder(variant)), open_onnx(plain(variant))]
    done: list[int] = []
    _, compared = score(models, windows, done.append)
    assert compared.ratio == pytest.approx(1, abs=1e-4)
    assert float(compared.kl.max()) < 1e-5
    assert sum(done) == 2 + 2 + 1
