"""Sizes of files as estimated, against those that are written."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

from converters.gguf.file import read_gguf
from converters.gguf.type_policy import file_type
from converters.onnx.options import OnnxOptions
from phi3quant import inspect
from phi3quant.estimating.artifact import Artifact, gguf, onnx, packed
from phi3quant.estimating.members import Described, describe
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.export import export_gguf, export_onnx
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe

# Sizes of files

GB = 10**9
SYM32 = QuantScheme(4, 32)
MINI = describe("phi-3-mini-4k")


def folder_of(name: str, checkpoint_folder: Callable[[str], Path]) -> Described:
    return describe(None if name == "phi3-tiny" else str(checkpoint_folder(name)))


@pytest.mark.parametrize("scheme", [SYM32, QuantScheme(4, 16, symmetric=False), QuantScheme(8, 64)])
@pytest.mark.parametrize("name", ["phi3-tiny", "mha", "tied", "longrope"])
def test_packed_files_have_exactly_the_size_that_was_told(
    name: str, scheme: QuantScheme, checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    model = folder_of(name, checkpoint_folder)
    # The small models' o_proj has rows of 64, their down_proj rows of 96.
    if name != "phi3-tiny":
        scheme = QuantScheme(scheme.bits, min(32, scheme.group_size or 32), scheme.symmetric)
    layouts = ("compressed-tensors", "gptq", *(("awq-gemm",) if scheme.bits == 4 else ()))
    made = quantize(model.folder, tmp_path / "out", Recipe("rtn", scheme, formats=layouts))
    for layout in layouts:
        told = packed(model, MatrixSchemes(scheme), layout)
        file = made.folders[layout] / "model.safetensors"
        assert told.file_bytes == file.stat().st_size
        with safe_open(file, framework="pt") as opened:
            names = set(opened.keys())
            shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in names}
        assert {tensor.name: tensor.shape for tensor in told.tensors} == shapes
        assert told.nbytes == inspect(made.folders[layout]).weight_bytes


@pytest.mark.parametrize("kind", ["q4_0", "q8_0", "f16", "q4_k_m"])
@pytest.mark.parametrize("name", ["phi3-tiny", "tied", "longrope", "mha"])
def test_gguf_tensors_are_exact_and_files_within_half_a_percent(
    name: str, kind: str, checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    model = folder_of(name, checkpoint_folder)
    if kind == "q4_k_m" and name != "phi3-tiny":
        # The fallback of narrow rows is what is of interest there.
        assert any(tensor.type == "Q5_0" for tensor in gguf(model, file_type(kind)).tensors)
    export_gguf(model.folder, tmp_path / "out", kind=file_type(kind))
    (file,) = (tmp_path / "out").glob("*.gguf")
    told = gguf(model, file_type(kind))
    stored = read_gguf(file).tensors
    assert {t.name: (t.type, t.shape, t.nbytes) for t in told.tensors} == {
        key: (entry.type.name, entry.shape, entry.nbytes) for key, entry in stored.items()
    }
    # The small models are mostly metadata; the 0.5 % holds for weights of some megabytes.
    allowed = max(0.005 * file.stat().st_size, 1500)
    assert abs(told.file_bytes - file.stat().st_size) < allowed


LAYOUTS = [
    OnnxOptions(),
    OnnxOptions(embedding="int4", head="int8"),
    OnnxOptions(embedding="fp16", head="fp32"),
    OnnxOptions(io="fp16", embedding="fp16", head="int4"),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["phi3-tiny", "tied", "longrope"])
def test_onnx_data_is_exact_and_folders_within_half_a_percent(
    name: str,
    layout: OnnxOptions,
    checkpoint_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    model = folder_of(name, checkpoint_folder)
    recipe = Recipe("rtn", SYM32, formats=("onnx",), onnx=layout)
    folder = quantize(model.folder, tmp_path / "out", recipe).folders["onnx"]
    data, graph = (folder / file for file in ("model.onnx.data", "model.onnx"))
    told = onnx(model, MatrixSchemes(SYM32), layout)
    padding = data.stat().st_size - told.nbytes
    assert 0 <= padding < 64 * len(told.tensors) + (64 << 10) * 4
    # Graphs of small models are of the size of their weights.
    size = data.stat().st_size + graph.stat().st_size
    assert abs(told.file_bytes - size) < max(0.005 * size, 3000)


def test_a_plain_onnx_export_is_told_too(tmp_path: Path) -> None:
    export_onnx("phi3-tiny", tmp_path / "out")
    size = sum(
        (tmp_path / "out" / file).stat().st_size for file in ("model.onnx", "model.onnx.data")
    )
    assert onnx(describe(None), None, OnnxOptions()).file_bytes == pytest.approx(size, rel=0.005)


ASYM128 = QuantScheme(4, 128, symmetric=False)


@pytest.mark.parametrize(
    ("told", "published"),
    [
        (gguf(MINI, file_type("f16")), (7.64, 7.64)),
        (gguf(MINI, file_type("q4_0")), (2.18, 2.18)),
        (gguf(MINI, file_type("q4_k_s")), (2.19, 2.20)),
        (gguf(MINI, file_type("q4_k_m")), (2.32, 2.40)),
        (gguf(MINI, file_type("q8_0")), (4.06, 4.06)),
        (
            onnx(MINI, MatrixSchemes(SYM32), OnnxOptions(4, "fp32", "int4")),
            (2.72, 2.72),
        ),
        (packed(MINI, MatrixSchemes(ASYM128), "awq-gemm"), (2.28, 2.28)),
    ],
    ids=lambda value: value.name if isinstance(value, Artifact) else "",
)
def test_published_sizes_of_phi_3_mini(told: Artifact, published: tuple[float, float]) -> None:
    low, high = published
    assert 0.995 * low <= told.file_bytes / GB <= 1.005 * high
