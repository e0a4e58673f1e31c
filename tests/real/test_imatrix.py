"""Importance matrices in llama.cpp's own quantizer, bit for bit."""

import ctypes
from collections.abc import Mapping
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from gguf import GGUFReader

from converters.gguf.type_policy import file_type
from phi3quant.run.calibration import Calibration
from phi3quant.run.export import export_gguf
from phi3quant.run.imatrix import write_imatrix
from tests.models import PROSE, make_model

BLOCK_TYPES = {
    "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q4_K_S": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_S,
    "Q5_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q6_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1,
    "Q5_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_0,
    "Q5_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_1,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows are whole superblocks."""
    folder = tmp_path_factory.mktemp("model")
    make_model(folder, hidden_size=256, intermediate_size=512, num_hidden_layers=9)
    return folder


@pytest.fixture(scope="module")
def imatrix(model: Path) -> Path:
    file = model.parent / f"{model.name}-imatrix.gguf"
    text = model.parent / f"{model.name}.txt"
    text.write_text(PROSE, encoding="utf-8")
    calibration = Calibration(text, samples=4, length=64)
    write_imatrix(model, file, calibration=calibration, process_output=True)
    return file


@pytest.fixture(scope="module")
def full(model: Path) -> Path:
    folder = model.parent / f"{model.name}-f32"
    export_gguf(model, folder, kind=file_type("f32"))
    return next(folder.glob("*.gguf"))


def as_llama_quantize_reads_it(file: Path) -> Mapping[str, np.ndarray]:
    """Sums over counts, as in load_imatrix of llama.cpp's tools/quantize."""
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(file).tensors}
    return {
        name.removesuffix(".in_sum2"): np.ascontiguousarray(
            sums / tensors[name.removesuffix(".in_sum2") + ".counts"], np.float32
        )
        for name, sums in tensors.items()
        if name.endswith(".in_sum2")
    }


def quantized_by_llama_cpp(
    source: Path, target: Path, kind: int, importance: Mapping[str, np.ndarray]
) -> Mapping[str, tuple[str, bytes]]:
    entries = (llama_cpp.llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, values) in zip(entries, importance.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = len(values)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.imatrix = kind, 2, entries
    failed = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(params)
    )
    assert not failed
    return stored(target)


def stored(file: Path) -> Mapping[str, tuple[str, bytes]]:
    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in GGUFReader(file).tensors}


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_an_export_with_importance_equals_llama_quantize(
    kind: str, model: Path, full: Path, imatrix: Path, tmp_path: Path
) -> None:
    export_gguf(model, tmp_path / "ours", kind=file_type(kind), imatrix=imatrix)
    (file,) = (tmp_path / "ours").glob("*.gguf")
    ours = stored(file)
    importance = as_llama_quantize_reads_it(imatrix)
    theirs = quantized_by_llama_cpp(full, tmp_path / "t.gguf", BLOCK_TYPES[kind], importance)
    assert ours.keys() == theirs.keys()
    alike = [name for name in ours if ours[name][0] == theirs[name][0]]
    assert [name for name in alike if ours[name] != theirs[name]] == []
    # With importance, llama.cpp stores the first ffn_down of Q4_0 and Q5_0 files as Q4_1 and Q5_1.
    others = set(ours) - set(alike)
    assert all("ffn_down" in name for name in others)
    assert not others or kind in {"Q4_0", "Q5_0"}
