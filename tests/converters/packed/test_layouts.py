import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import LAYOUTS
from converters.packed import bits
from converters.packed.layout import PackedLayout, Stated
from converters.packed.opening import by_module
from converters.packed.sizes import words_for
from phi3quant.disk.tensor_stream import DTYPE_NAMES
from phi3quant.errors import SchemeError
from phi3quant.model.architecture import LINEARS, block_tensor_name
from phi3quant.model.config import Phi3Config
from phi3quant.quant.matrix_schemes import MatrixSchemes, matrix_schemes
from phi3quant.quant.scheme import BITS, QuantScheme
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.source.checkpoint import open_checkpoint

SCHEMES = [
    QuantScheme(4, 32),
    QuantScheme(4, 16, symmetric=False),
    QuantScheme(4, None, symmetric=False),
    QuantScheme(8, 16),
    QuantScheme(8, None, symmetric=False),
    QuantScheme(3, 32),
    QuantScheme(3, None, symmetric=False),
    QuantScheme(2, 32, symmetric=False),
    QuantScheme(5, 32),
    QuantScheme(6, 32, symmetric=False),
]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def random_tensor(rows: int, columns: int, scheme: QuantScheme, seed: int = 0) -> QuantizedTensor:
    generator = torch.Generator().manual_seed(seed)
    groups = columns // scheme.group_width(columns)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randint(0, scheme.max_code + 1, shape, generator=generator).to(torch.uint8)

    scales = (torch.randn(rows, groups, generator=generator) + 3).half()
    zeros = None if scheme.symmetric else draw(rows, groups)
    return QuantizedTensor(scheme, draw(rows, columns), scales, zeros)


def can_hold(layout: PackedLayout, scheme: QuantScheme, config: Phi3Config) -> bool:
    try:
        layout.check(MatrixSchemes(scheme), config)
    except SchemeError:
        return False
    return True


@pytest.fixture(scope="module")
def config(checkpoint_folder: Callable[[str], Path]) -> Phi3Config:
    return open_checkpoint(checkpoint_folder("gqa")).config


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
def test_what_is_packed_is_unpacked(
    layout: PackedLayout, scheme: QuantScheme, config: Phi3Config
) -> None:
    if not can_hold(layout, scheme, config):
        with pytest.raises(SchemeError, match=r"instead|MLX has groups"):
            layout.check(MatrixSchemes(scheme), config)
        return
    tensor = random_tensor(40, 128, scheme)
    stored = layout.pack(tensor, MatrixSchemes(scheme))
    announced = layout.specify(40, 128, scheme)
    assert [spec.name for spec in announced] == list(stored)
    for spec in announced:
        assert DTYPE_NAMES[stored[spec.name].dtype] == spec.dtype
        assert tuple(stored[spec.name].shape) == spec.shape
    stated = layout.recognise(layout.describe(MatrixSchemes(scheme)))
    assert stated is not None
    described = stated.scheme
    assert (described.bits, described.group_size) == (scheme.bits, scheme.group_size)
    again = layout.unpack(stored, tensor.shape, described)
    assert torch.equal(again.codes, tensor.codes)
    assert torch.equal(again.dequantize(), tensor.dequantize())


def test_a_layout_does_not_claim_anothers_description() -> None:
    for layout in LAYOUTS.values():
        described = layout.describe(MatrixSchemes(QuantScheme()))
        claims = [other.name for other in LAYOUTS.values() if other.recognise(described)]
        assert claims == [layout.name]


@settings(max_examples=80, deadline=None)
@given(
    width=st.sampled_from(BITS),
    rows=st.integers(1, 5),
    count=st.integers(1, 70),
    seed=st.integers(0, 99),
    order=st.sampled_from([None, AWQ_ORDER]),
)
def test_bits_survive_packing(
    width: int, rows: int, count: int, seed: int, order: tuple[int, ...] | None
) -> None:
    order = order if width == 4 else None
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 1 << width, (rows, count), generator=generator).to(torch.uint8)
    words = bits.pack(values, width, order)
    assert words.shape == (rows, words_for(count, width))
    assert torch.equal(bits.unpack(words, width, count, order), values)
    if order is None:
        assert torch.equal(words, as_one_number(values, width))


def as_one_number(values: torch.Tensor, width: int) -> torch.Tensor:
    """Words of rows of values, each row a number of as many bits; int32 [rows, words]."""
    numbers = (
        sum(int(each) << (width * place) for place, each in enumerate(row)) for row in values
    )
    nbytes = 4 * words_for(values.shape[1], width)
    rows = [np.frombuffer(number.to_bytes(nbytes, "little"), np.int32) for number in numbers]
    return torch.from_numpy(np.array(rows))


@settings(max_examples=30, deadline=None)
@given(width=st.sampled_from([4, 8]), rows=st.integers(1, 9), columns=st.integers(1, 40))
def test_words_equal_those_of_the_compressed_tensors_library(
    width: int, rows: int, columns: int
) -> None:
    generator = torch.Generator().manual_seed(rows * columns)
    codes = torch.randint(0, 1 << width, (rows, columns), generator=generator).to(torch.uint8)
    signed = (codes.to(torch.int16) - (1 << (width - 1))).to(torch.int8)
    assert torch.equal(bits.pack(codes, width), pack_to_int32(signed, width))
    assert torch.equal(bits.pack(codes.T, width).T, pack_to_int32(signed, width, packed_dim=0))


def test_awq_words_hold_the_columns_in_autoawqs_order() -> None:
    scheme = QuantScheme(4, 16, symmetric=False)
    tensor = random_tensor(24, 32, scheme)
    stored = LAYOUTS["awq-gemm"].pack(tensor, MatrixSchemes(scheme))
    assert tensor.zero_points is not None
    for name, values in (("qweight", tensor.codes), ("qzeros", tensor.zero_points)):
        for row in range(values.shape[1]):
            for word in range(3):
                number = int(stored[name][row, word]) & 0xFFFFFFFF
                for place, column in enumerate(AWQ_ORDER):
                    expected = int(values[8 * word + column, row])
                    assert (number >> (4 * place)) & 15 == expected
    assert torch.equal(stored["scales"], tensor.scales.T)


def test_symmetric_codes_get_a_zero_point_of_8_in_awq() -> None:
    stored = LAYOUTS["awq-gemm"].pack(
        random_tensor(8, 32, QuantScheme()), MatrixSchemes(QuantScheme())
    )
    assert (stored["qzeros"].view(torch.uint8) == 0x88).all()


def test_golden_words() -> None:
    codes = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]], dtype=torch.uint8)
    assert bits.pack(codes, 4).tolist() == [[0x87654321 - (1 << 32)]]
    assert bits.pack(codes, 4, AWQ_ORDER).tolist() == [[0x86427531 - (1 << 32)]]
    assert bits.pack(codes[:, :3], 8).tolist() == [[0x00030201]]
    # The eleventh code of 3 bits lies in two words.
    codes = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 6]], dtype=torch.uint8)
    word = 0b10_010_001_000_111_110_101_100_011_010_001
    assert bits.pack(codes, 3).tolist() == [[word - (1 << 32), 1]]


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"quant_method": "awq", "version": "gemv", "bits": 4, "group_size": 64}, "gemv"),
        ({"quant_method": "awq", "bits": 4, "group_size": 48}, "group_size 48"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "marlin-24"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "pack-quantized",
                "config_groups": {"a": {"weights": {"type": "float", "strategy": "group"}}},
            },
            "'float'",
        ),
    ],
)
def test_a_form_that_cannot_be_read_is_named(described: dict[str, object], message: str) -> None:
    def recognise_any() -> list[Stated | None]:
        return [layout.recognise(described) for layout in LAYOUTS.values()]

    with pytest.raises(SchemeError, match=message):
        recognise_any()


MODULES = [block_tensor_name(index, key) for index in range(2) for key in LINEARS]
_MIXABLE = st.sampled_from([QuantScheme(4, 32), QuantScheme(8, 32), QuantScheme(4, 32, False)])


@settings(max_examples=60, deadline=None)
@given(
    drawn=st.lists(_MIXABLE, min_size=len(MODULES), max_size=len(MODULES)),
    name=st.sampled_from(["compressed-tensors", "gptq", "mlx"]),
)
def test_the_scheme_of_every_matrix_survives_its_description(
    drawn: list[QuantScheme], name: str, checkpoint_folder: Callable[[str], Path]
) -> None:
    config = open_checkpoint(checkpoint_folder("gqa")).config
    schemes = matrix_schemes(dict(zip(MODULES, drawn, strict=True)))
    described = json.loads(json.dumps(LAYOUTS[name].describe(schemes)))
    stated = LAYOUTS[name].recognise(described)
    assert stated is not None
    settled = by_module(stated, config, {})
    for module, scheme in zip(MODULES, drawn, strict=True):
        again = settled.schemes.get(module.removesuffix(".weight"), settled.scheme)
        # MLX stores offsets, which don't show whether codes are symmetric.
        assert again == (replace(scheme, symmetric=False) if name == "mlx" else scheme)
    assert schemes == matrix_schemes({module: schemes.scheme(module) for module in MODULES})
