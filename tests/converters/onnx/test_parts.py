"""Parts of the ONNX export on their own: packing, placing, options and ids."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.onnx.data import DataStream, check_hashes, check_sizes
from converters.onnx.genai import generation_ids
from converters.onnx.options import OnnxOptions
from converters.onnx.repack import NBits, to_nbits
from converters.onnx.sizes import check, nbytes, place_tensors
from converters.widths import HELD_BITS
from phi3quant.disk.ordered_writer import completed
from phi3quant.disk.tensor_stream import TensorSpec
from phi3quant.errors import CheckpointError, SchemeError, TokenizerError
from phi3quant.model.config import parse_config
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import GROUP_SIZES, QuantScheme
from phi3quant.quant.tensor import QuantizedTensor
from tests.converters.onnx.nbits import from_nbits
from tests.models import BASE, make_tokenizer

MINI = {
    "model_type": "phi3",
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
"""The sizes of Phi-3-mini."""


@settings(max_examples=60, deadline=None)
@given(
    scheme=st.builds(
        QuantScheme, st.sampled_from(HELD_BITS["onnx"]), st.sampled_from(GROUP_SIZES), st.booleans()
    ),
    rows=st.integers(1, 5),
    groups=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_codes_survive_the_operators_layout(
    scheme: QuantScheme, rows: int, groups: int, seed: int
) -> None:
    bits, width = scheme.bits, scheme.group_width(0)
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randint(0, 1 << bits, shape, generator=generator).to(torch.uint8)

    scales = (torch.randn(rows, groups, generator=generator) + 3).half()
    zeros = None if scheme.symmetric else draw(rows, groups)
    tensor = QuantizedTensor(scheme, draw(rows, groups * width), scales, zeros)
    packed = to_nbits(tensor)
    assert packed.weight.shape == (rows, groups, width * bits // 8)
    if packed.zero_points is not None:
        assert packed.zero_points.shape == (rows, -(-groups * bits // 8))
    again = from_nbits(packed, scheme)
    assert torch.equal(again.codes, tensor.codes)
    assert torch.equal(again.scales, tensor.scales)
    assert (zeros is None) == (again.zero_points is None)
    if zeros is not None and again.zero_points is not None:
        assert torch.equal(again.zero_points, zeros)


def test_golden_bytes() -> None:
    codes = torch.arange(16, dtype=torch.uint8).repeat(2)[None]
    zeros = torch.tensor([[3, 12]], dtype=torch.uint8)
    scales = torch.ones(1, 2, dtype=torch.float16)
    packed = to_nbits(QuantizedTensor(QuantScheme(4, 16, symmetric=False), codes, scales, zeros))
    assert isinstance(packed, NBits)
    assert packed.weight[0, 0].tolist() == [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]
    assert packed.zero_points is not None
    assert packed.zero_points.tolist() == [[0xC3]]


def test_whole_rows_are_refused_with_what_fits() -> None:
    with pytest.raises(SchemeError, match=r"4 and 8 bits.*groups of 16, 32, 64, 128, 256"):
        check(MatrixSchemes(QuantScheme(4, None)), parse_config(MINI), OnnxOptions())


def test_an_embedding_that_codes_do_not_fit_is_refused() -> None:
    config = parse_config({**MINI, "hidden_size": 16 * 33, "num_attention_heads": 33})
    scheme = QuantScheme(4, 16)
    check(MatrixSchemes(scheme), config, OnnxOptions())
    with pytest.raises(SchemeError, match="group size 32 doesn't divide rows of 528"):
        check(MatrixSchemes(scheme), config, OnnxOptions(embedding="int4"))


def test_heads_that_the_operator_cannot_take_are_refused() -> None:
    config = parse_config({**MINI, "hidden_size": 32 * 24})
    with pytest.raises(SchemeError, match="multiples of 16 values; this model's have 24"):
        check(MatrixSchemes(QuantScheme()), config, OnnxOptions())


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"accuracy_level": 5}, "no accuracy level 5; choose from 0, 1, 2, 3, 4"),
        ({"head": "int3"}, "no head int3"),
        ({"opset": 17}, "no opset 17; choose from 14, 21"),
        ({"io": "bf16"}, "no io type bf16"),
        ({"opset": 14, "embedding": "int4"}, "choose fp32 or fp16, or opset 21"),
    ],
)
def test_choices_that_are_none_are_refused(choice: dict[str, object], message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        OnnxOptions(**choice)  # type: ignore[arg-type]


def test_phi_3_mini_fits_245_gigabytes() -> None:
    options = OnnxOptions(embedding="int4", head="int8")
    assert 2.43e9 < nbytes(parse_config(MINI), MatrixSchemes(QuantScheme()), options) < 2.45e9


def test_large_tensors_begin_at_pages_and_files_end_before_they_are_too_long() -> None:
    specs = [
        TensorSpec("small", torch.float32, (3,)),
        TensorSpec("large", torch.uint8, (1 << 20,)),
        TensorSpec("next", torch.uint8, (1 << 20,)),
        TensorSpec("last", torch.float32, (5,)),
    ]
    places = place_tensors(specs, None)
    assert [places[spec.name].offset for spec in specs] == [0, 65536, 65536 + (1 << 20), 2162688]
    assert {place.file for place in places.values()} == {"model.onnx.data"}
    split = place_tensors(specs, 1_200_000)
    files = [split[spec.name].file for spec in specs]
    assert files == ["model.onnx.data", "model.onnx.data", *["model.onnx.data_1"] * 2]
    assert split["next"].offset == 0


def test_a_stream_insists_on_what_was_planned(tmp_path: Path) -> None:
    specs = [TensorSpec("a", torch.float32, (2, 2)), TensorSpec("b", torch.float32, (1,))]
    places = place_tensors(specs, None)

    def write(*tensors: tuple[str, torch.Tensor]) -> None:
        with completed(DataStream(tmp_path, specs, places)) as stream:
            for name, tensor in tensors:
                stream.write(name, [tensor])

    whole = ("a", torch.eye(2))
    for tensors, message in (
        ([("b", torch.eye(1))], "expected a, got b"),
        ([("a", torch.eye(3))], "has 36 bytes; 16 were planned"),
        ([("a", torch.eye(2).half())], "float16; torch.float32 was planned"),
        ([whole], "b was never written"),
    ):
        with pytest.raises(ValueError, match=message):
            write(*tensors)
    write(whole, ("b", torch.ones(1)))
    data = (tmp_path / "model.onnx.data").read_bytes()
    assert data == bytes(torch.eye(2).numpy()) + bytes(48) + bytes(torch.ones(1).numpy())


def test_a_list_of_files_catches_what_sizes_do_not(tmp_path: Path) -> None:
    spec = TensorSpec("a", torch.uint8, (8,))
    with completed(DataStream(tmp_path, [spec], place_tensors([spec], None))) as stream:
        stream.write("a", [torch.arange(4).byte(), torch.arange(4).byte()])
    (tmp_path / "files.json").write_text(json.dumps(stream.files))
    data = tmp_path / "model.onnx.data"
    check_sizes(tmp_path, {data.name: 8})
    check_hashes(tmp_path, [data.name])
    data.write_bytes(bytes(8))
    check_sizes(tmp_path, {data.name: 8})
    with pytest.raises(CheckpointError, match=r"model\.onnx\.data is damaged"):
        check_hashes(tmp_path, [data.name])
    data.write_bytes(bytes(9))
    with pytest.raises(CheckpointError, match="has 9 bytes, not 8"):
        check_sizes(tmp_path, {data.name: 8})
    for text, message in (
        ("[]", r"files\.json: Expected `object`"),
        ('{"model.onnx.data": {"bytes": "8"}}', r"files\.json is not a list of files"),
        ('{"model.onnx.data": 8}', r"files\.json is not a list of files"),
    ):
        (tmp_path / "files.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            check_sizes(tmp_path, {data.name: 8})


@pytest.mark.parametrize(
    ("settings", "config", "stops"),
    [
        ({"eos_token_id": [2, 5]}, {}, (2, 5, 6)),
        ({}, {"eos_token_id": 4}, (4, 6)),
        ({"eos_token_id": 6}, {"eos_token_id": 2}, (6, 2)),
    ],
)
def test_generation_stops_at_ends_of_turns_too(
    settings: dict[str, object],
    config: dict[str, object],
    stops: tuple[int, ...],
    tmp_path: Path,
) -> None:
    make_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    kept = {key: value for key, value in BASE.items() if not key.endswith("token_id")}
    found = generation_ids(tmp_path, parse_config({"model_type": "phi3", **kept, **config}))
    assert found.stops == stops  # <|end|> is 6 there
    assert found.pad == stops[0]
    assert found.begin is None


def test_ids_that_are_none_are_refused(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    config = parse_config({"model_type": "phi3", **BASE, "eos_token_id": ["</s>"]})
    with pytest.raises(TokenizerError, match="must be a token id or a list"):
        generation_ids(tmp_path, config)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json, which onnxruntime-genai needs"):
        generation_ids(tmp_path, config)


def test_a_model_without_any_end_is_refused(
    tmp_path: Path, checkpoint_folder: Callable[[str], Path]
) -> None:
    described = json.loads((checkpoint_folder("gqa") / "tokenizer.json").read_text())
    text = json.dumps(described).replace("<|end|>", "<|fin|>")
    (tmp_path / "tokenizer.json").write_text(text)
    kept = {key: value for key, value in BASE.items() if not key.endswith("token_id")}
    with pytest.raises(TokenizerError, match="no token that ends a text"):
        generation_ids(tmp_path, parse_config({"model_type": "phi3", **kept}))
