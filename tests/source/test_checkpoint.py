import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from phi3quant.disk.tensor_stream import DTYPE_NAMES
from phi3quant.errors import CheckpointError
from phi3quant.source.checkpoint import open_checkpoint
from phi3quant.source.weight_files import open_tensors
from tests.models import make_model

QKV = "model.layers.0.self_attn.qkv_proj.weight"
SHARD = "model-00001-of-00001.safetensors"


@pytest.fixture
def folder(tmp_path: Path, checkpoint_folder: Callable[[str], Path]) -> Path:
    """A copy that a test may damage."""
    copy = tmp_path / "model"
    shutil.copytree(checkpoint_folder("gqa"), copy)
    return copy


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_blocks_are_fp32_for_every_stored_dtype(folder: Path, dtype: torch.dtype) -> None:
    change(folder, lambda tensors: tensors.update({k: v.to(dtype) for k, v in tensors.items()}))
    checkpoint = open_checkpoint(folder)
    stored = load_file(folder / "model.safetensors")
    assert checkpoint.format == f"safetensors {DTYPE_NAMES[dtype]}"
    assert torch.equal(checkpoint.block(0)["qkv_proj"], stored[QKV].float())


def test_shards_read_as_one(tmp_path: Path, folder: Path) -> None:
    model = make_model(tmp_path / "whole")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    sharded = open_checkpoint(tmp_path / "sharded")
    assert len(sharded.store.files) > 2
    whole = open_checkpoint(folder)
    for index in range(2):
        for key, value in whole.block(index).items():
            assert torch.equal(value, sharded.block(index)[key])


def test_a_tied_head_is_the_embedding(checkpoint_folder: Callable[[str], Path]) -> None:
    tied = open_checkpoint(checkpoint_folder("tied"))
    assert torch.equal(tied.head(), tied.embedding())


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_the_message_names_a_truncated_shard(folder: Path, kept: float) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept if kept >= 4 else kept * len(data))])
    with pytest.raises(CheckpointError, match=r"model\.safetensors \(\d+ bytes\) is not a whole"):
        open_checkpoint(folder)


def test_the_message_names_a_shard_without_read_permission(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors can't be read: Permission denied"
    ):
        open_tensors(folder)


def test_the_message_for_a_git_lfs_pointer_gives_the_remedy(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match=r"a git-lfs pointer.*git lfs pull"):
        open_checkpoint(folder)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=400))
def test_arbitrary_bytes_as_a_shard_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    try:
        opened = open_tensors(tmp_path)
    except CheckpointError:
        return
    assert not opened.tensors


def test_the_message_names_a_missing_tensor(folder: Path) -> None:
    change(folder, lambda tensors: tensors.pop(QKV))
    with pytest.raises(CheckpointError, match=f"has no tensor {QKV}"):
        open_checkpoint(folder)


def test_the_message_for_a_wrong_shape_has_both_shapes(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({QKV: tensors[QKV][:-1].clone()}))
    with pytest.raises(CheckpointError, match=r"shape \[127, 64\]; config.json calls for \[128"):
        open_checkpoint(folder)


def test_weights_of_an_integer_type_are_refused(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({QKV: tensors[QKV].to(torch.int32)}))
    with pytest.raises(CheckpointError, match="is I32; expected one of F32, F16, BF16"):
        open_checkpoint(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_message_locates_a_value_that_is_not_finite(folder: Path, value: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[QKV][3, 5] = value

    change(folder, spoil)
    checkpoint = open_checkpoint(folder)
    with pytest.raises(CheckpointError, match=rf"{QKV} .* 1 values .* first at \(3, 5\)"):
        checkpoint.block(0)


def test_an_index_that_names_a_missing_shard_is_refused(folder: Path) -> None:
    write_index(folder, {QKV: "model-00001-of-00002.safetensors"})
    with pytest.raises(CheckpointError, match=r"00001-of-00002\.safetensors is missing"):
        open_checkpoint(folder)


def test_an_index_that_names_the_wrong_shard_is_refused(folder: Path) -> None:
    write_index(folder, {QKV: SHARD, "elsewhere": SHARD})
    with pytest.raises(CheckpointError, match=r"elsewhere in model-.*, which doesn't hold it"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", 7])
def test_an_index_with_a_path_outside_its_folder_is_refused(folder: Path, name: object) -> None:
    write_index(folder, {QKV: name})
    with pytest.raises(CheckpointError, match="not a file name"):
        open_checkpoint(folder)


def test_a_folder_of_pickles_is_refused_with_a_hint(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickles, which can run code"):
        open_checkpoint(folder)


def write_index(folder: Path, weight_map: dict[str, object]) -> None:
    """Turn the weights into one shard and write an index."""
    (folder / "model.safetensors").rename(folder / SHARD)
    index = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)
