"""Zero points of GPTQ folders in both versions of the layout."""

from pathlib import Path

import numpy as np
import pytest
import torch

from converters import LAYOUTS, open_weights
from phi3quant.errors import CheckpointError
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import QuantizedTensor
from tests.converters.packed.gptq_folders import (
    GPTQ,
    GROUP,
    Tensors,
    assert_equal_to_dense,
    describe,
    pack,
    words,
)
from tests.converters.spoiled import edit


def test_golden_words_of_version_1() -> None:
    scheme = QuantScheme()
    codes = (torch.arange(8 * 32) % 16).to(torch.uint8).view(8, 32)
    tensor = QuantizedTensor(scheme, codes, torch.ones(8, 1).half(), None)
    stored = LAYOUTS["gptq"].pack(tensor, MatrixSchemes(scheme))
    assert stored["qzeros"].tolist() == [[0x77777777]]
    assert stored["qweight"][:2, 0].tolist() == [0x76543210, 0xFEDCBA98 - (1 << 32)]
    assert stored["g_idx"].tolist() == [0] * 32


def test_golden_words_of_version_2() -> None:
    scheme = QuantScheme(4, 32, symmetric=False)
    zeros = torch.arange(8, dtype=torch.uint8).view(8, 1)
    codes = torch.zeros(8, 32, dtype=torch.uint8)
    tensor = QuantizedTensor(scheme, codes, torch.ones(8, 1).half(), zeros)
    stored = LAYOUTS["gptq"].pack(tensor, MatrixSchemes(scheme))
    assert stored["qzeros"].tolist() == [[0x76543210]]


def test_a_zero_point_of_0_in_version_1_borrows_from_its_neighbour() -> None:
    zeros = [0, 8, 0, 0, 15, 1, 8, 8]
    word = sum(value << (4 * place) for place, value in enumerate(zeros)) - 0x11111111
    stated = LAYOUTS["gptq"].recognise(GPTQ)
    assert stated is not None
    assert stated.unpack is not None
    stored = {
        "qweight": torch.zeros(2, 8, dtype=torch.int32),
        "qzeros": torch.tensor([[word & 0xFFFFFFFF]]).to(torch.int32),
        "scales": torch.ones(1, 8).half(),
    }
    tensor = stated.unpack(stored, (8, GROUP), stated.scheme)
    assert tensor.zero_points is not None
    assert tensor.zero_points.flatten().tolist() == zeros


THREE_BITS = (0x24924924, 0x92492492, 0x49249249)
"""Constants by which GPTQModel used to change 3-bit zero points."""


@pytest.mark.parametrize("by", ["ones", "constants"])
def test_symmetric_codes_of_3_bits_are_read_from_version_1(folder: Path, by: str) -> None:
    pack(folder, bits=3, version=2, sym=True)

    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith("qzeros")]:
            if by == "ones":
                threes = np.full((32 * tensors[name].shape[1] // 3, tensors[name].shape[0]), 3)
                tensors[name] = words(threes, 3).T.contiguous()
            else:
                constants = torch.tensor(THREE_BITS).repeat(tensors[name].shape[1] // 3)
                tensors[name] -= constants.to(torch.int32)

    edit(folder, change)
    describe(folder, checkpoint_format="gptq")
    assert_equal_to_dense(folder)


def test_asymmetric_codes_of_3_bits_are_refused_in_version_1(folder: Path) -> None:
    pack(folder, bits=3, version=2)
    describe(folder, checkpoint_format="gptq")
    with pytest.raises(CheckpointError, match="3-bit zero points in several ways; save"):
        open_weights(folder).block(0)


def test_symmetric_codes_of_the_other_version_are_refused(folder: Path) -> None:
    pack(folder, sym=True)
    assert_equal_to_dense(folder)
    describe(folder, checkpoint_format="gptq_v2")
    with pytest.raises(CheckpointError, match="not all zero points are 8"):
        open_weights(folder).block(0)
