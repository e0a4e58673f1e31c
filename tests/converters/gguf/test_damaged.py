"""GGUF files that are damaged, and models that can't become one."""

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from converters import open_weights
from converters.gguf.reader import open_gguf
from converters.gguf.tokenizer import build_tokenizer
from converters.gguf.type_policy import file_type
from phi3quant.errors import CheckpointError, Phi3QuantError, SchemeError, TokenizerError
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.export import export_gguf
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.converters.gguf.exported import export
from tests.models import make_model


def whole_file(tmp_path: Path) -> bytearray:
    return bytearray(export("phi3-tiny", tmp_path / "good", "q4_0").read_bytes())


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (0, b"GGML", "not a GGUF file"),
        (4, struct.pack("<I", 77), "version 77"),
        (8, struct.pack("<Q", 1 << 60), "claims 1152921504606846976 tensors"),
        (16, struct.pack("<Q", 1 << 40), "claims 1099511627776 metadata entries"),
        (24, struct.pack("<Q", 1 << 50), "claims 1125899906842624 characters"),
    ],
)
def test_a_lying_header_is_refused(where: int, value: bytes, message: str, tmp_path: Path) -> None:
    data = whole_file(tmp_path)
    data[where : where + len(value)] = value
    (tmp_path / "bad.gguf").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        open_weights(tmp_path / "bad.gguf")


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.005, 0.5, 0.999])
def test_a_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    data = whole_file(tmp_path)
    (tmp_path / "bad.gguf").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"cut short|can't be read|more than it has"):
        open_weights(tmp_path / "bad.gguf")


def test_no_flipped_byte_of_the_header_breaks_the_reader(tmp_path: Path) -> None:
    data = whole_file(tmp_path)
    generator = torch.Generator().manual_seed(9)
    bad = tmp_path / "bad.gguf"
    for _ in range(150):
        place = int(torch.randint(0, 2000, (1,), generator=generator))
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(torch.randint(0, 8, (1,), generator=generator))
        bad.write_bytes(flipped)
        try:
            open_weights(bad)
        except Phi3QuantError as error:
            assert str(bad) in str(error)  # noqa: PT017 - a flip may also do no harm


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer.ggml.scores", [0.0]),
        ("tokenizer.ggml.tokens", ["a"]),
        ("tokenizer.ggml.unknown_token_id", 1 << 30),
        ("tokenizer.ggml.model", "bert"),
        ("tokenizer.ggml.model", "gpt2"),
    ],
)
def test_a_broken_tokenizer_is_refused(key: str, value: object, tmp_path: Path) -> None:
    fields = open_gguf(export("phi3-tiny", tmp_path / "out", "q4_0")).model.fields
    with pytest.raises(TokenizerError, match="some file"):
        build_tokenizer({**fields, key: value}, "some file")


def test_a_file_type_of_any_kind_is_borne(tmp_path: Path) -> None:
    opened = open_gguf(export("phi3-tiny", tmp_path / "out", "q4_0"))
    fields = {**opened.model.fields, "general.file_type": [1, 2]}
    changed = replace(opened, model=replace(opened.model, fields=fields))
    assert changed.format == "GGUF Q4_0"


def test_what_cannot_be_exported_is_explained(
    checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(SchemeError, match="no GGUF type 'q3_x'"):
        export_gguf("phi3-tiny", tmp_path / "out", kind=file_type("q3_x"))
    file = export("phi3-tiny", tmp_path / "once", "q4_0")
    with pytest.raises(CheckpointError, match=r"already \(GGUF Q4_0\); use the original"):
        quantize(file, tmp_path / "out", Recipe("rtn"))
    make_model(tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"neither tokenizer\.json nor"):
        export_gguf(tmp_path / "bare", tmp_path / "out")
    recipe = Recipe("rtn", QuantScheme(8, 32, symmetric=False), ("gguf",))
    with pytest.raises(SchemeError, match="GGUF has no type"):
        quantize(checkpoint_folder("gqa"), tmp_path / "out", recipe)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["q4_0", "q4_k_m", "f16"])
def test_damaged_weights_are_not_written(kind: str, tmp_path: Path) -> None:
    make_model(tmp_path / "bad")
    weights = load_file(tmp_path / "bad" / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = float("nan")
    save_file(weights, tmp_path / "bad" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"blk\.1\.ffn_down\.weight.*NaN or infinity"):
        export_gguf(tmp_path / "bad", tmp_path / "out", kind=file_type(kind))
    assert not (tmp_path / "out").exists()
