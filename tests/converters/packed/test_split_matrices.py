"""Packed folders with q_proj, k_proj and v_proj, or gate_proj and up_proj, as other tools write."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from converters import LAYOUTS, open_weights
from converters.packed.mlx_options import MlxOptions
from converters.packed.reader import PackedCheckpoint
from phi3quant.errors import CheckpointError, Phi3QuantError, SchemeError
from phi3quant.model.architecture import SPLITS, block_prefix, block_tensor_name
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.offset_tensor import OffsetTensor
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import QuantizedTensor
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.converters.packed.gptq_folders import describe, pack
from tests.converters.spoiled import copy_of, edit

GATE, UP = (f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up"))
SYMMETRIC, ASYMMETRIC = QuantScheme(4, 32), QuantScheme(4, 32, symmetric=False)


def opened(folder: Path) -> PackedCheckpoint:
    model = open_weights(folder)
    assert isinstance(model, PackedCheckpoint)
    return model


def split(folder: Path, *keys: str) -> Path:
    """A copy of a folder whose matrices ``keys`` are stored in parts; both are packed here."""
    model, target = opened(folder), copy_of(folder, folder.parent / "split")

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for index in range(model.config.num_hidden_layers):
            for key in keys:
                whole = block_tensor_name(index, key).removesuffix("weight")
                for name in [name for name in tensors if name.startswith(whole)]:
                    del tensors[name]
                begin = 0
                for part in SPLITS[key]:
                    end = begin + part.shape(model.config)[0]
                    stem = (block_prefix(index) + part.name).removesuffix("weight")
                    rows = slice(begin, end)
                    stored = _packed(model, model.matrix(index, key), rows)
                    tensors |= {stem + ending: each for ending, each in stored.items()}
                    begin = end

    edit(target, change)
    return target


def _packed(model: PackedCheckpoint, codes: object, rows: slice) -> Any:
    layout = model.layout
    if isinstance(codes, OffsetTensor):
        assert layout.pack_offsets is not None
        tensors = (codes.codes[rows], codes.scales[rows], codes.offsets[rows])
        return layout.pack_offsets(OffsetTensor(codes.scheme, *tensors))
    assert isinstance(codes, QuantizedTensor)
    zeros = None if codes.zero_points is None else codes.zero_points[rows]
    part = QuantizedTensor(codes.scheme, codes.codes[rows], codes.scales[rows], zeros)
    return layout.pack(part, model.schemes)


def assert_same_codes(one: PackedCheckpoint, other: PackedCheckpoint) -> None:
    for index in range(one.config.num_hidden_layers):
        for key in SPLITS:
            first, second = one.matrix(index, key), other.matrix(index, key)
            assert _tensors(first) == _tensors(second)
            assert torch.equal(one.dequantized(index, key), other.dequantized(index, key))


def _tensors(matrix: object) -> dict[str, Any]:
    fields = vars(matrix).items()
    return {name: each.tolist() for name, each in fields if isinstance(each, torch.Tensor)}


@pytest.mark.parametrize("keys", [("gate_up_proj",), tuple(SPLITS)], ids=" ".join)
@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        *product(LAYOUTS, (SYMMETRIC, ASYMMETRIC)),
        *product(("compressed-tensors", "gptq", "mlx"), (QuantScheme(8, 32),)),
    ],
    ids=str,
)
def test_parts_are_read_as_the_matrix(
    folder: Path, name: str, scheme: QuantScheme, keys: tuple[str, ...]
) -> None:
    recipe = Recipe("rtn", scheme, (name,), mlx=MlxOptions("fp16", "fp16"))
    out = quantize(folder, folder.parent / "out", recipe).folders[name]
    whole, parts = opened(out), opened(split(out, *keys))
    assert_same_codes(whole, parts)
    assert parts.format == whole.format
    # Tensors without rows, such as g_idx, are stored once for each part.
    assert 0 <= parts.linear_bytes - whole.linear_bytes < whole.linear_bytes / 10


@pytest.mark.parametrize("by_index", [False, True])
def test_gptq_by_index_may_be_in_parts(folder: Path, *, by_index: bool) -> None:
    pack(folder, by_index=by_index)
    whole = opened(folder)
    target = split_gptq(folder)
    for index in range(2):
        for key in SPLITS:
            assert torch.equal(
                whole.dequantized(index, key), opened(target).dequantized(index, key)
            )


def split_gptq(folder: Path) -> Path:
    """A copy of a GPTQ folder with gate_proj and up_proj, whatever its columns' order."""
    target = copy_of(folder, folder.parent / "split")

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for index in range(2):
            whole = block_tensor_name(index, "gate_up_proj").removesuffix("weight")
            stored = {ending: tensors.pop(whole + ending) for ending in ENDINGS}
            halves = {
                ending: torch.chunk(each, 2, dim=1) if each.ndim > 1 else (each, each)
                for ending, each in stored.items()
            }
            for number, part in enumerate(SPLITS["gate_up_proj"]):
                stem = (block_prefix(index) + part.name).removesuffix("weight")
                for ending, each in halves.items():
                    tensors[stem + ending] = each[number].clone()

    edit(target, change)
    return target


ENDINGS = ("qweight", "qzeros", "scales", "g_idx")


def edited(change: Callable[[dict[str, torch.Tensor]], object], *, by_index: bool = False) -> Any:
    def make(folder: Path) -> Path:
        pack(folder, by_index=by_index)
        target = split_gptq(folder)
        edit(target, change)
        return target

    return make


def another_order(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{UP}.g_idx"] = tensors[f"{UP}.g_idx"].flip(0).contiguous()


def other_rows(tensors: dict[str, torch.Tensor]) -> None:
    """Move rows from one part to the other, which leaves their sum."""
    for ending, step in (("qweight", 8), ("qzeros", 1), ("scales", 8)):
        gate, up = (tensors[f"{module}.{ending}"] for module in (GATE, UP))
        tensors[f"{GATE}.{ending}"] = torch.cat([gate, up[:, :step]], dim=1)
        tensors[f"{UP}.{ending}"] = up[:, step:].contiguous()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (edited(lambda tensors: tensors.pop(f"{UP}.scales")), f"has no tensor {UP}.scales"),
        (edited(another_order, by_index=True), "different groups, but Phi-3 has one matrix"),
        (edited(other_rows), f"{GATE}.qweight .* config.json requires"),
        (
            edited(lambda tensors: tensors.update({f"{UP}.bias": torch.ones(8)})),
            f"{UP}.bias: Phi-3 has no biases",
        ),
    ],
    ids=["missing", "order", "rows", "bias"],
)
def test_parts_that_are_no_matrix_are_refused(
    folder: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        opened(make(folder)).block(0)


def test_a_matrix_and_its_parts_are_refused(folder: Path) -> None:
    pack(folder)
    both = load_file(split_gptq(folder) / "model.safetensors")
    edit(folder, lambda tensors: tensors.update(both))
    with pytest.raises(CheckpointError, match="gate_proj"):
        open_weights(folder)


def test_zero_biases_of_parts_change_nothing(folder: Path) -> None:
    pack(folder)
    target = split_gptq(folder)
    rows = opened(target).config.intermediate_size
    edit(target, lambda tensors: tensors.update({f"{UP}.bias": torch.zeros(rows)}))
    assert_same_codes(opened(folder), opened(target))


def test_settings_of_parts_must_agree(folder: Path) -> None:
    pack(folder)
    target = split_gptq(folder)
    describe(target, dynamic={r"+:.*\.gate_proj$": {"bits": 8}})
    with pytest.raises(SchemeError, match=r"gate_proj .*up_proj .*\(int8 .*int4 .*one matrix"):
        open_weights(target)


def test_entries_of_parts_are_those_of_the_matrix(folder: Path) -> None:
    pack(folder)
    target = split_gptq(folder)
    describe(target, group_size=64, dynamic={r"+:.*_proj$": {"group_size": 16}})
    assert_same_codes(opened(folder), opened(target))
    describe(target, group_size=16, dynamic={r"+:.*\.gate_up_proj$": {"bits": 8}})
    with pytest.raises(SchemeError, match="matches no matrix"):
        open_weights(target)


@pytest.mark.parametrize("listed", [(GATE, UP), (GATE,), ()], ids=["both", "one", "none"])
def test_plain_parts_must_be_listed(folder: Path, listed: tuple[str, ...]) -> None:
    dense = load_file(folder / "model.safetensors")
    pack(folder)
    target = split_gptq(folder)

    def plain(tensors: dict[str, torch.Tensor]) -> None:
        halves = dense[block_tensor_name(0, "gate_up_proj")].chunk(2)
        for module, half in zip((GATE, UP), halves, strict=True):
            for ending in ENDINGS:
                del tensors[f"{module}.{ending}"]
            tensors[f"{module}.weight"] = half.clone()

    edit(target, plain)
    describe(target, dynamic={f"-:{module}": {} for module in listed})
    if len(listed) < 2:
        with pytest.raises(CheckpointError, match="plain, which its quantization_config doesn't"):
            open_weights(target)
        return
    expected = dense[block_tensor_name(0, "gate_up_proj")].float()
    assert torch.equal(opened(target).dequantized(0, "gate_up_proj"), expected)


def test_parts_that_are_listed_as_plain_but_packed_are_refused(folder: Path) -> None:
    pack(folder)
    target = split_gptq(folder)
    describe(target, dynamic={f"-:{GATE}": {}})
    with pytest.raises(Phi3QuantError, match=r"lists .* as plain, but there is no plain tensor"):
        open_weights(target)


def test_a_mixed_gptq_folder_is_written_as_gptqmodel_reads_it(folder: Path) -> None:
    recipe = Recipe("rtn", SYMMETRIC, ("gptq", "compressed-tensors"), tensor_types=("mlp=int8",))
    folders = quantize(folder, folder.parent / "out", recipe).folders
    stored = load_file(folders["gptq"] / "model.safetensors")
    assert f"{GATE}.qweight" in stored
    assert not any("gate_up_proj" in name for name in stored)
    dynamic = json.loads((folders["gptq"] / "config.json").read_text())["quantization_config"]
    assert r"+:^model\.layers\.0\.mlp\.(gate|up|gate_up)_proj$" in dynamic["dynamic"]
    gptq = opened(folders["gptq"])
    assert_same_codes(opened(folders["compressed-tensors"]), gptq)


def test_parts_that_do_not_fill_words_are_refused(folder: Path) -> None:
    config = replace(open_weights(folder).config, intermediate_size=36)
    eight = QuantScheme(8, None)
    others = {block_tensor_name(index, "down_proj"): eight for index in range(2)}
    LAYOUTS["gptq"].check(MatrixSchemes(eight), config)
    with pytest.raises(SchemeError, match=r"packs 8 rows .* gate_proj is 36 x"):
        LAYOUTS["gptq"].check(MatrixSchemes(QuantScheme(4, None), others), config)
