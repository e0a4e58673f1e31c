"""GGUF files compared byte for byte with those of llama.cpp's own quantizer."""

import ctypes
from collections.abc import Mapping
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from gguf import GGUFReader

from converters.gguf.type_policy import FILE_TYPES, file_type
from phi3quant.run.export import export_gguf
from tests.models import make_model

BASE = {"num_hidden_layers": 16, "hidden_size": 256, "num_attention_heads": 8}
MODELS: Mapping[str, Mapping[str, int]] = {
    "gqa": {"num_key_value_heads": 2, "intermediate_size": 512},
    "mha": {"num_key_value_heads": 8, "intermediate_size": 512},
    # ffn_down's rows aren't a whole number of superblocks.
    "narrow": {"num_key_value_heads": 8, "intermediate_size": 288},
}
NAMES = ("Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "IQ4_NL")


@pytest.fixture(scope="module", params=MODELS.values(), ids=list(MODELS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 16 blocks, where every rule for the first blocks applies."""
    folder = tmp_path_factory.mktemp("model") / "model"
    make_model(folder, **BASE, **request.param)
    return folder


def exported(model: Path, folder: Path, kind: str) -> Path:
    export_gguf(model, folder, kind=file_type(kind))
    (file,) = folder.glob("*.gguf")
    return file


@pytest.mark.parametrize("kind", NAMES)
def test_a_file_equals_llama_quantizes(kind: str, model: Path, tmp_path: Path) -> None:
    full = exported(model, tmp_path / "full", "f32")
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = FILE_TYPES[kind].number, 1
    target = tmp_path / "theirs.gguf"
    names = (str(path).encode() for path in (full, target))
    assert llama_cpp.llama_model_quantize(*names, ctypes.byref(settings)) == 0
    theirs, ours = GGUFReader(target), GGUFReader(exported(model, tmp_path / "ours", kind))
    tensors = {tensor.name: tensor for tensor in ours.tensors}
    assert tensors.keys() == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors:
        assert tensors[tensor.name].tensor_type == tensor.tensor_type, tensor.name
        np.testing.assert_array_equal(tensors[tensor.name].data, tensor.data, tensor.name)
    types = [reader.fields["general.file_type"].contents() for reader in (ours, theirs)]
    assert types[0] == types[1]
