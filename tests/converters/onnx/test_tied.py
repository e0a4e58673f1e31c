"""Tied models in ONNX: one matrix for the embedding and the head."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from converters import open_weights
from converters.onnx.options import CODES, OnnxOptions
from converters.onnx.reader import open_onnx
from phi3quant.quant.codecs import affine
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.converters.onnx.runtime import Runtime
from tests.models import BASE, VOCABULARY, own_logits

IDS = torch.randint(0, VOCABULARY, (1, 60), generator=torch.Generator().manual_seed(5))


def test_a_tied_head_shares_the_embeddings_bytes(
    checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    sizes = {}
    for head in ("int8", "fp16"):
        recipe = Recipe("rtn", formats=("onnx",), onnx=OnnxOptions(embedding="int8", head=head))
        folder = quantize(checkpoint_folder("tied"), tmp_path / head, recipe).folders["onnx"]
        sizes[head] = open_onnx(folder).weight_bytes
    assert sizes["fp16"] - sizes["int8"] == VOCABULARY * BASE["hidden_size"] * 2


def test_a_tied_model_keeps_one_matrix_when_a_single_type_is_chosen(
    checkpoint_folder: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = Recipe("rtn", QuantScheme(4, 32), ("onnx",), onnx=OnnxOptions(embedding="int4"))
    result = quantize(checkpoint_folder("tied"), tmp_path / "out", recipe)
    data = (result.folders["onnx"] / "model.onnx.data").read_bytes()
    recipe = replace(recipe, onnx=OnnxOptions())
    default = quantize(checkpoint_folder("tied"), tmp_path / "default", recipe)
    assert data == (default.folders["onnx"] / "model.onnx.data").read_bytes()
    (record,) = caplog.records
    assert "stored as int8" in record.getMessage()


@pytest.mark.parametrize("choice", ["int8", "int4"])
def test_a_shared_matrix_gives_the_rows_and_logits_of_its_dequantized_self(
    choice: str, checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    layout = OnnxOptions(accuracy_level=0, head=choice)
    recipe = Recipe("rtn", QuantScheme(8, 32), ("compressed-tensors", "onnx"), onnx=layout)
    folders = quantize(checkpoint_folder("tied"), tmp_path / "out", recipe).folders
    packed = open_weights(folders["compressed-tensors"])
    embedding = open_weights(checkpoint_folder("tied")).embedding()
    matrix = affine.quantize(embedding, CODES[choice]).dequantize()
    weights: Any = SimpleNamespace(
        config=packed.config,
        block=packed.block,
        final_norm=packed.final_norm,
        embedding=lambda: matrix,
        head=lambda: matrix,
    )
    with torch.inference_mode():
        expected = own_logits(weights, IDS)
    actual = Runtime(folders["onnx"]).once(IDS)
    assert float((actual - expected).abs().max()) < 1e-3
