"""Block types compared bit for bit with llama.cpp's C code (bindings of libgguf)."""

import gguf
import libgguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType

from converters.gguf.repack import repack, type_for
from phi3quant.errors import SchemeError
from phi3quant.quant.codecs import affine
from phi3quant.quant.codecs.ggml_blocks import TYPES
from phi3quant.quant.scheme import QuantScheme

COLUMNS = 1024
QUANTIZED = [name for name, entry in TYPES.items() if entry.group > 1]


def rows() -> dict[str, torch.Tensor]:
    """Ordinary rows, and rows that are difficult for a search."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, COLUMNS, generator=generator)

    outliers = normal(6)
    outliers[:, : COLUMNS // 2] = 0
    outliers[:, 600:620] *= 1000
    return {
        "normal": normal(40),
        "heavy tails": normal(16) / torch.rand(16, COLUMNS, generator=generator).sqrt(),
        "many scales": normal(8) * torch.exp(3 * normal(8)),
        "outliers": outliers,
        "zeros": torch.zeros(2, COLUMNS),
        "constants": torch.stack([torch.full((COLUMNS,), value) for value in (0.37, -0.59, 1e-3)]),
        "positive": torch.rand(24, COLUMNS, generator=generator),
        "negative": -torch.rand(8, COLUMNS, generator=generator),
        "few values": normal(8).round(),
        "tiny": normal(4) * 1e-20,
        "subnormal": normal(4) * 1e-42,
        "large": normal(4) * 1e4,
    }


def importances() -> dict[str, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(6)
    return {
        "none": None,
        "mild": torch.rand(COLUMNS, generator=generator) + 0.01,
        "wild": torch.exp(3 * torch.randn(COLUMNS, generator=generator)),
        "zero": torch.zeros(COLUMNS),
    }


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("importance", importances())
def test_blocks_equal_llama_cpps(kind: str, importance: str) -> None:
    weights = importances()[importance]
    number = GGMLQuantizationType[kind]
    for name, x in rows().items():
        matrix = None if weights is None else weights.numpy()
        expected = libgguf.quantize_rows(x.numpy(), number, imatrix=matrix)
        assert np.array_equal(TYPES[kind].encode(x, weights), expected), name


@pytest.mark.parametrize("kind", TYPES)
def test_decoded_blocks_are_close_to_the_weights(kind: str) -> None:
    x = rows()["normal"]
    entry = TYPES[kind]
    stored = entry.encode(x, None)
    assert stored.nbytes == len(x) * entry.row_bytes(COLUMNS)
    decoded = torch.from_numpy(gguf.quants.dequantize(stored, entry.type))
    bits = 8 * entry.row_bytes(COLUMNS) / COLUMNS
    # Each bit halves the step. With 5 bits the error is below a tenth of the weights' deviation;
    # BF16 has only 8 bits besides those of the exponent.
    assert float((decoded - x).std()) < 0.1 * 2 ** (5 - min(bits, 9))


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [
        (QuantScheme(4, 32), "Q4_0"),
        (QuantScheme(4, 128), "Q4_0"),
        (QuantScheme(4, None), "Q4_0"),
        (QuantScheme(8, 32), "Q8_0"),
    ],
    ids=str,
)
def test_symmetric_codes_are_repacked_exactly(scheme: QuantScheme, kind: str) -> None:
    tensor = affine.quantize(rows()["normal"], scheme)
    assert type_for(scheme).name == kind
    again = gguf.quants.dequantize(repack(tensor), GGMLQuantizationType[kind])
    assert torch.equal(torch.from_numpy(again), tensor.dequantize())


def test_rtn_in_groups_of_32_nearly_equals_llama_cpps_q4_0() -> None:
    x = rows()["normal"]
    tensor = affine.quantize(x, QuantScheme(4, 32))
    # llama.cpp rounds with the scale before its conversion to FP16, so codes may differ by one.
    expected = gguf.quants.dequantize(TYPES["Q4_0"].encode(x, None), GGMLQuantizationType.Q4_0)
    differ = tensor.dequantize() != torch.from_numpy(expected)
    assert float(differ.float().mean()) < 0.01


def test_zero_points_become_minima_that_are_rounded_once() -> None:
    tensor = affine.quantize(rows()["normal"], QuantScheme(4, 32, symmetric=False))
    again = torch.from_numpy(gguf.quants.dequantize(repack(tensor), GGMLQuantizationType.Q4_1))
    scales = tensor.scales.float().repeat_interleave(32, dim=1)
    assert float(((again - tensor.dequantize()).abs() / scales).max()) < 15 * 2.0**-11


@pytest.mark.parametrize(
    "scheme", [QuantScheme(8, 32, symmetric=False), QuantScheme(4, 16)], ids=str
)
def test_a_scheme_without_a_block_type_is_refused(scheme: QuantScheme) -> None:
    with pytest.raises(SchemeError, match="GGUF"):
        type_for(scheme)
