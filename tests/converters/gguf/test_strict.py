"""GGUF files from elsewhere: what changes their meaning is applied, or refused by name."""

import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGUFReader, LlamaFileType
from safetensors.torch import load_file, save_file

from converters import open_weights
from converters.gguf.file import read_gguf
from converters.gguf.reader import open_gguf
from converters.gguf.scales import check_scales
from converters.gguf.type_policy import FILE_TYPES, file_type
from phi3quant.errors import CheckpointError, ModelNotFoundError, SchemeError
from phi3quant.quant.codecs.ggml_blocks import TYPES
from phi3quant.quant.ggml_types import BLOCK_SIZES
from phi3quant.run.export import export_gguf
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.source.locate import locate
from tests.models import make_model

Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def file(
    checkpoint_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("gguf") / "out"
    export_gguf(checkpoint_folder("gqa"), folder, kind=file_type("f32"))
    (made,) = folder.glob("*.gguf")
    return made


def rewritten(
    file: Path,
    target: Path,
    keys: Mapping[str, Any] | None = None,
    change: Callable[[Tensors], object] = lambda _tensors: None,
) -> Path:
    """The file again, by the gguf library, with other keys and tensors."""
    reader = GGUFReader(file)
    writer = gguf.GGUFWriter(target, "phi3")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", *(keys or {})):
            kinds = [*field.types, None]
            writer.add_key_value(name, field.contents(), kinds[0], kinds[1])
    for name, value in (keys or {}).items():
        adder = {str: writer.add_string, float: writer.add_float32, bool: writer.add_bool}
        adder.get(type(value), writer.add_uint32)(name, value)
    tensors = {tensor.name: tensor.data.copy() for tensor in reader.tensors}
    change(tensors)
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def put(name: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: np.ones(shape, np.float32)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("blk.2.attn_norm.weight", 64), "more blocks than its metadata.s block_count, 2"),
        (put("blk.0.attn_qkv.bias", 128), "no biases"),
        (put("output_norm.bias", 64), "no biases"),
        (put("rope_freqs.weight", 8), "RoPE that Phi-3 doesn't have"),
        (put("rope_factors_short.weight", 8), "long and short factors"),
        (put("blk.0.attn_qkv.weight.lora_a", 8, 64), "LoRA"),
        (put("v.patch_embd.weight", 4, 4), "vision or audio"),
        (put("blk.0.attn_q_norm.weight", 16), "not part of a Phi-3 model"),
    ],
)
def test_tensors_that_nothing_reads_are_refused_with_the_reason(
    file: Path, tmp_path: Path, change: Callable[[Tensors], object], message: str
) -> None:
    bad = rewritten(file, tmp_path / "bad.gguf", change=change)
    with pytest.raises(CheckpointError, match=message):
        open_weights(bad)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rope.scaling.type", "yarn", "rope.scaling.type is 'yarn'"),
        ("rope.scaling.factor", 4.0, "rope.scaling.factor is 4"),
        ("rope.scaling.attn_factor", 1.5, "no rope factors"),
        ("attention.key_length", 32, "its heads have 16 values"),
        ("attn_logit_softcapping", 30.0, "is unknown and may change the model"),
        ("expert_count", 8, "expert_count is 8"),
        ("rope.freq_base", 0.0, "not a positive number"),
        ("block_count", True, "block_count is True"),
        ("block_count", 2**31, "not an integer"),
    ],
)
def test_keys_that_change_the_model_are_refused_by_name(
    file: Path, tmp_path: Path, key: str, value: object, message: str
) -> None:
    bad = rewritten(file, tmp_path / "bad.gguf", {f"phi3.{key}": value})
    with pytest.raises(CheckpointError, match=message):
        open_weights(bad)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope.scaling.type", "none"),
        ("attention.key_length", 16),
        ("vocab_size", 320),
        ("rope.scaling.attn_factor", 1.0),
    ],
)
def test_keys_that_say_what_holds_anyway_pass(
    file: Path, tmp_path: Path, key: str, value: object
) -> None:
    good = rewritten(file, tmp_path / "good.gguf", {f"phi3.{key}": value})
    assert torch.equal(open_weights(good).block(1)["o_proj"], open_weights(file).block(1)["o_proj"])


@pytest.mark.parametrize("name", ["sha256-5f3a", "MODEL.GGUF", "model.bin"])
def test_a_file_is_known_by_its_first_bytes(file: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(file, tmp_path / name)
    assert open_weights(locate(tmp_path / name).path).format == "GGUF F32"


def test_files_that_are_not_models_are_refused_by_what_they_are(file: Path, tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    for name in ("pointer.gguf", "blob"):
        (tmp_path / name).write_text(pointer)
    with pytest.raises(CheckpointError, match="git lfs pull"):
        open_weights(locate(tmp_path / "pointer.gguf").path)
    with pytest.raises(ModelNotFoundError, match="git lfs pull"):
        locate(tmp_path / "blob")
    (tmp_path / "text").write_text("x")
    with pytest.raises(ModelNotFoundError, match="neither a folder nor a GGUF file"):
        locate(tmp_path / "text")
    big_endian = bytearray(file.read_bytes())
    big_endian[4:8] = struct.pack(">I", 3)
    (tmp_path / "big.gguf").write_bytes(big_endian)
    with pytest.raises(CheckpointError, match="is big-endian"):
        open_weights(tmp_path / "big.gguf")


@pytest.mark.parametrize(
    "name", ["x-00001-of-00000.gguf", "x-00000-of-00001.gguf", "x-00003-of-00002.gguf"]
)
def test_a_part_beyond_the_count_is_refused(file: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(file, tmp_path / name)
    with pytest.raises(CheckpointError, match="is named as part"):
        open_weights(tmp_path / name)


def test_parts_that_do_not_belong_together_are_refused(file: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        shutil.copy(file, tmp_path / f"x-{number:05}-of-00002.gguf")
    with pytest.raises(CheckpointError, match="occurs in another part too"):
        open_weights(tmp_path)
    other = rewritten(file, tmp_path / "x-00002-of-00002.gguf", change=lambda t: t.clear())
    with pytest.raises(CheckpointError, match=r"has split\.no None"):
        open_weights(other)


@pytest.mark.parametrize("alignment", [0, 24, 3, 1 << 21, 32.0, True])
def test_an_alignment_that_is_no_power_of_two_is_refused(
    file: Path, tmp_path: Path, alignment: float
) -> None:
    bad = tmp_path / "bad.gguf"
    rewritten(file, bad, {"general.alignment_": alignment})
    bad.write_bytes(bad.read_bytes().replace(b"general.alignment_", b"general.alignment\0", 1))
    data = bad.read_bytes()
    at = data.index(b"general.alignment\0")
    fixed = data[: at - 8] + struct.pack("<Q", 17) + data[at : at + 17] + data[at + 18 :]
    bad.write_bytes(fixed)
    with pytest.raises(CheckpointError, match="not a power of two"):
        read_gguf(bad)


@pytest.mark.parametrize(
    ("offset", "message"), [(0, "overlapping with another one"), (33, "multiple of 32")]
)
def test_tensors_at_impossible_places_are_refused(
    file: Path, tmp_path: Path, offset: int, message: str
) -> None:
    data = bytearray(file.read_bytes())
    entry = data.index(b"output_norm.weight") + len(b"output_norm.weight")
    struct.pack_into("<Q", data, entry + 4 + 8 + 4, offset)
    (tmp_path / "bad.gguf").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        read_gguf(tmp_path / "bad.gguf")


SCALED = sorted(set(BLOCK_SIZES) - {"F32", "BF16", "F16"})


@pytest.mark.parametrize("kind", SCALED)
@pytest.mark.parametrize("value", [3e9, -3e9, 3e38, -3e38])
def test_a_scale_past_fp16_is_refused_when_it_is_written(kind: str, value: float) -> None:
    weights = torch.randn(3, 512, generator=torch.Generator().manual_seed(1))
    check_scales(BLOCK_SIZES[kind], TYPES[kind].encode(weights, None))
    weights[1, 300] = value
    with np.errstate(all="ignore"):
        spoiled = TYPES[kind].encode(weights, None)
    with pytest.raises(CheckpointError, match=f"above 65504, which {kind} can't hold"):
        check_scales(BLOCK_SIZES[kind], spoiled)


def test_a_model_with_such_a_weight_leaves_nothing_behind(
    checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    source = tmp_path / "model"
    shutil.copytree(checkpoint_folder("gqa"), source)
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][3, 40] = 1e7
    save_file(tensors, source / "model.safetensors")
    message = r"blk\.1\.ffn_down\.weight can't be written: a group .* above 65504"
    with pytest.raises(CheckpointError, match=message):
        export_gguf(source, tmp_path / "out", kind=file_type("q4_0"))
    assert not (tmp_path / "out").exists()


def test_norms_past_fp16_stay_as_they_are_in_gguf_and_are_refused_where_they_cannot(
    checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    source = tmp_path / "model"
    shutil.copytree(checkpoint_folder("gqa"), source)
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.input_layernorm.weight"][3] = 70144.0
    save_file(tensors, source / "model.safetensors")
    made = quantize(source, tmp_path / "gguf", Recipe("rtn", formats=("gguf",)))
    norm = open_weights(made.folders["gguf"]).block(1)["input_layernorm"]
    assert norm[3] == 70144.0
    rest = tensors["model.layers.1.input_layernorm.weight"].half().float()
    assert torch.equal(norm[4:], rest[4:])
    with pytest.raises(CheckpointError, match=r"layers\.1\.input_layernorm.* 70144.*fit FP16"):
        quantize(source, tmp_path / "packed", Recipe("rtn"))


def test_heads_of_another_size_are_refused_before_any_work(tmp_path: Path) -> None:
    make_model(tmp_path / "model", head_dim=32)
    with pytest.raises(SchemeError, match="not of head_dim 32"):
        quantize(tmp_path / "model", tmp_path / "out", Recipe("rtn", formats=("gguf",)))
    with pytest.raises(SchemeError, match="not of head_dim 32"):
        export_gguf(tmp_path / "model", tmp_path / "out", kind=file_type("f16"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("types", "number"),
    [
        ((".=q8_0",), LlamaFileType.MOSTLY_Q8_0),
        (("output=q8_0", ".=q5_0"), LlamaFileType.MOSTLY_Q5_0),
        (("token_embd|output=f16", ".=q4_0"), LlamaFileType.MOSTLY_F16),
    ],
)
def test_a_mixture_is_called_after_its_most_frequent_type(
    checkpoint_folder: Callable[[str], Path],
    tmp_path: Path,
    types: tuple[str, ...],
    number: LlamaFileType,
) -> None:
    kind = file_type("mixed", types)
    export_gguf(checkpoint_folder("gqa"), tmp_path / "out", kind=kind)
    assert open_gguf(tmp_path / "out").model.fields["general.file_type"] == number
    assert number in {entry.number for entry in FILE_TYPES.values()}
