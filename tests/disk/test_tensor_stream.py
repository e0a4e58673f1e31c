import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from phi3quant.disk.hashed_file import describe_file
from phi3quant.disk.ordered_writer import completed
from phi3quant.disk.tensor_stream import DTYPE_NAMES, SafetensorsStream, TensorSpec

SPECS = st.lists(
    st.builds(
        lambda dtype, shape: (dtype, tuple(shape)),
        st.sampled_from(sorted(DTYPE_NAMES, key=str)),
        st.lists(st.integers(0, 5), max_size=3),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes=SPECS, limit=st.integers(1, 400))
def test_the_safetensors_library_reads_the_tensors_that_were_streamed(
    tmp_path: Path, shapes: list[tuple[torch.dtype, tuple[int, ...]]], limit: int
) -> None:
    for old in tmp_path.iterdir():
        old.unlink()
    specs = [TensorSpec(f"t{i}", dtype, shape) for i, (dtype, shape) in enumerate(shapes)]
    tensors = {
        spec.name: torch.randint(0, 100, spec.shape, generator=torch.Generator().manual_seed(i)).to(
            spec.dtype
        )
        for i, spec in enumerate(specs)
    }
    with completed(SafetensorsStream(tmp_path, specs, shard_bytes=limit)) as out:
        for spec in specs:
            out.write(spec.name, tensors[spec.name])
    read: dict[str, torch.Tensor] = {}
    files = sorted(tmp_path.glob("*.safetensors"))
    assert out.hashed == {file.name: describe_file(file) for file in files}
    for file in files:
        shard = load_file(file)
        assert sum(t.nbytes for t in shard.values()) <= limit or len(shard) == 1
        read |= shard
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_the_index_lists_the_shard_of_every_tensor_and_the_total_size(tmp_path: Path) -> None:
    specs = [TensorSpec(name, torch.float16, (4, 4)) for name in "abc"]
    with completed(SafetensorsStream(tmp_path, specs, shard_bytes=64)) as out:
        for spec in specs:
            out.write(spec.name, torch.zeros(4, 4, dtype=torch.float16))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 96
    assert index["weight_map"] == {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00001-of-00002.safetensors",
        "c": "model-00002-of-00002.safetensors",
    }


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("b", torch.zeros(2, 2)),
        ("a", torch.zeros(2, 3)),
        ("a", torch.zeros(2, 2, dtype=torch.float16)),
    ],
)
def test_an_unexpected_tensor_is_refused(tmp_path: Path, name: str, tensor: torch.Tensor) -> None:
    specs = [TensorSpec("a", torch.float32, (2, 2)), TensorSpec("b", torch.float32, (2, 2))]
    with (
        pytest.raises(ValueError, match="expected"),
        completed(SafetensorsStream(tmp_path, specs)) as out,
    ):
        out.write(name, tensor)


def test_closing_before_all_tensors_are_written_is_an_error(tmp_path: Path) -> None:
    specs = [TensorSpec("a", torch.float32, (2, 2))]
    with (
        pytest.raises(ValueError, match="a was never written"),
        completed(SafetensorsStream(tmp_path, specs)),
    ):
        pass
