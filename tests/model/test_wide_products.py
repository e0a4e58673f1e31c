"""FP32 products by oneDNN; tests of errors of a whole block are in test_decoder_block.py."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch.nn import functional

from phi3quant.model import wide_products as module
from phi3quant.model.wide_products import wide_products

SETTINGS: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
SHAPES = [(1, 64, 48), (7, 33, 65), (2, 3072, 96), (129, 257, 513), (600, 1024, 300)]


@pytest.mark.parametrize("shape", SHAPES)
def test_products_have_the_precision_of_fp32(shape: tuple[int, int, int]) -> None:
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(inner)
    left = torch.randn(rows, inner, generator=generator)
    right = torch.randn(columns, inner, generator=generator)
    start = torch.randn(rows, 2 * columns, generator=generator)
    exact = left.double() @ right.double().T
    with wide_products():
        added = start.clone()
        added[:, columns:].addmm_(left.T.contiguous().T, right.T)
        products = [left @ right.T, functional.linear(left, right), (right @ left.T).T]
        products.append(added[:, columns:] - start[:, columns:])
    assert torch.equal(added[:, :columns], start[:, :columns])
    for product in products:
        assert float((product - exact).norm() / exact.norm()) < 2e-6


def test_the_setting_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_exact", lambda: True)
    before = SETTINGS.fp32_precision
    with wide_products():
        with pytest.raises(KeyError), wide_products():
            raise KeyError(SETTINGS.fp32_precision)
        assert SETTINGS.fp32_precision == "bf16"
    assert SETTINGS.fp32_precision == before


def test_a_thread_that_ends_leaves_the_setting_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_is_exact", lambda: True)
    before = SETTINGS.fp32_precision
    first, second = wide_products(), wide_products()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert SETTINGS.fp32_precision == "bf16"
    second.__exit__(None, None, None)
    assert SETTINGS.fp32_precision == before


@pytest.mark.parametrize(
    "abilities",
    [
        {"avx512_f": True, "amx_bf16": True},
        {"avx512_f": False},
        {},
    ],
)
def test_other_processors_multiply_as_before(
    abilities: Mapping[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    module._is_exact.cache_clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    before = SETTINGS.fp32_precision
    with wide_products():
        assert SETTINGS.fp32_precision == before
    module._is_exact.cache_clear()
