"""Importance matrices: the file, and what is refused in one from outside."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from converters.gguf.imatrix import Imatrix, encode
from converters.gguf.imatrix_reader import read_imatrix
from converters.gguf.importance import read_importance
from converters.gguf.type_policy import file_type
from phi3quant.errors import CheckpointError, Phi3QuantError, SchemeError
from phi3quant.model.config_file import read_config
from tests.models import make_model

QKV, DOWN, EMBEDDING = "blk.0.attn_qkv.weight", "blk.0.ffn_down.weight", "token_embd.weight"
SUMS = np.arange(64, dtype=np.float32)


def imatrix_of(sums: dict[str, np.ndarray], counts: dict[str, int] | None = None) -> Imatrix:
    return Imatrix(sums, counts or dict.fromkeys(sums, 8), ("text.txt",), 2, 4)


def write(path: Path, imatrix: Imatrix) -> Path:
    path.write_bytes(encode(imatrix, {"phi3quant.source": "a"}))
    return path


def test_the_gguf_library_reads_what_is_written(tmp_path: Path) -> None:
    file = write(tmp_path / "i.gguf", imatrix_of({QKV: SUMS, DOWN: SUMS[:31]}))
    reader = GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.type"] == "imatrix"
    assert fields["imatrix.datasets"] == ["text.txt"]
    assert (fields["imatrix.chunk_count"], fields["imatrix.chunk_size"]) == (2, 4)
    names = [f"{name}{end}" for name in (QKV, DOWN) for end in (".in_sum2", ".counts")]
    assert [tensor.name for tensor in reader.tensors] == names
    assert reader.tensors[0].data.tobytes() == SUMS.tobytes()
    assert list(reader.tensors[1].data) == [8]
    assert len(reader.tensors[2].data) == 31


def test_a_file_is_read_back(tmp_path: Path) -> None:
    imatrix = read_imatrix(write(tmp_path / "i.gguf", imatrix_of({QKV: SUMS})))
    assert (imatrix.datasets, imatrix.chunks, imatrix.chunk_tokens) == (("text.txt",), 2, 4)
    importance = imatrix.importance(QKV)
    assert importance is not None
    assert importance.tobytes() == (SUMS / np.float32(8)).tobytes()
    assert imatrix.importance(DOWN) is None


def test_a_count_of_zero_makes_all_columns_equal(tmp_path: Path) -> None:
    file = write(tmp_path / "i.gguf", imatrix_of({QKV: SUMS}, {QKV: 0}))
    importance = read_imatrix(file).importance(QKV)
    assert importance is not None
    assert set(importance) == {1.0}


def raw(
    path: Path,
    tensors: dict[str, np.ndarray],
    *,
    leave_out: str = "",
    kind: str = "imatrix",
    chunks: int = 1,
) -> Path:
    writer = GGUFWriter(path, "")
    writer.add_type(kind)
    fields: dict[str, Callable[[str], None]] = {
        "imatrix.datasets": lambda key: writer.add_array(key, ["a"]),
        "imatrix.chunk_count": lambda key: writer.add_uint32(key, chunks),
        "imatrix.chunk_size": lambda key: writer.add_uint32(key, 8),
    }
    for key, add in fields.items():
        if key != leave_out:
            add(key)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


COUNT = np.array([8], np.float32)
BAD = np.array([1, -1], np.float32)
SPOILED: dict[str, dict[str, np.ndarray]] = {
    "NaN or infinity": {f"{QKV}.in_sum2": SUMS * np.float32("nan"), f"{QKV}.counts": COUNT},
    "negative sum": {f"{QKV}.in_sum2": BAD, f"{QKV}.counts": COUNT},
    "not a number of tokens": {f"{QKV}.in_sum2": SUMS, f"{QKV}.counts": -COUNT},
    "number of tokens": {f"{QKV}.in_sum2": SUMS, f"{QKV}.counts": BAD},
    "but no blk.0.attn_qkv.weight.counts": {f"{QKV}.in_sum2": SUMS},
    "but no blk.0.attn_qkv.weight.in_sum2": {
        f"{DOWN}.in_sum2": SUMS,
        f"{DOWN}.counts": COUNT,
        f"{QKV}.counts": COUNT,
    },
    "F16; it must be F32": {f"{QKV}.in_sum2": SUMS.astype(np.float16), f"{QKV}.counts": COUNT},
    "2 rows": {f"{QKV}.in_sum2": SUMS.reshape(2, 32), f"{QKV}.counts": COUNT},
    "no sums": {"other": SUMS},
}


@pytest.mark.parametrize("message", SPOILED)
def test_damaged_values_are_refused(message: str, tmp_path: Path) -> None:
    file = raw(tmp_path / "i.gguf", SPOILED[message])
    with pytest.raises(CheckpointError, match=message):
        read_imatrix(file)


@pytest.mark.parametrize("key", ["datasets", "chunk_count", "chunk_size"])
def test_a_file_without_its_keys_is_refused(key: str, tmp_path: Path) -> None:
    tensors = {f"{QKV}.in_sum2": SUMS, f"{QKV}.counts": COUNT}
    file = raw(tmp_path / "i.gguf", tensors, leave_out=f"imatrix.{key}")
    with pytest.raises(CheckpointError, match=f"no key imatrix.{key}"):
        read_imatrix(file)


def test_a_number_of_chunks_out_of_range_is_refused(tmp_path: Path) -> None:
    tensors = {f"{QKV}.in_sum2": SUMS, f"{QKV}.counts": COUNT}
    file = raw(tmp_path / "i.gguf", tensors, chunks=1 << 31)
    with pytest.raises(CheckpointError, match="not a possible number"):
        read_imatrix(file)


def test_a_model_is_refused(tmp_path: Path) -> None:
    file = raw(tmp_path / "i.gguf", {QKV: SUMS}, kind="model")
    with pytest.raises(CheckpointError, match="GGUF 'model', not an importance matrix"):
        read_imatrix(file)


def test_the_older_form_is_refused_with_advice(tmp_path: Path) -> None:
    file = tmp_path / "imatrix.dat"
    file.write_bytes(b"\1\0\0\0\6\0\0\0output")
    with pytest.raises(CheckpointError, match="llama-imatrix converts its older"):
        read_imatrix(file)
    with pytest.raises(CheckpointError, match="there is no importance matrix"):
        read_imatrix(tmp_path / "none.gguf")


def test_every_cut_of_a_file_ends_in_a_message(tmp_path: Path) -> None:
    content = encode(imatrix_of({QKV: SUMS}), {})
    for length in range(0, len(content) - 32, 7):
        (tmp_path / "i.gguf").write_bytes(content[:length])
        with pytest.raises(Phi3QuantError):
            read_imatrix(tmp_path / "i.gguf")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    make_model(tmp_path / "model")
    return tmp_path / "model"


def test_deviations_are_noted_as_llama_cpp_treats_them(model: Path, tmp_path: Path) -> None:
    sums = {QKV: SUMS, EMBEDDING: SUMS[:32], "blk.0.attn_q.weight": SUMS}
    file = write(tmp_path / "i.gguf", imatrix_of(sums, {**dict.fromkeys(sums, 8), QKV: 0}))
    importance = read_importance(file, file_type("q4_0"), read_config(model))
    assert set(importance.vectors) == {QKV}
    missing, ignored, zeros = importance.notes
    assert "no entry for blk.0.attn_output.weight, blk.0.ffn_up.weight" in missing
    assert "match no matrix of this model and are ignored: blk.0.attn_q.weight" in ignored
    assert f"counts of 0 for {QKV}" in zeros


@pytest.mark.parametrize(
    ("sums", "kind", "message"),
    [
        ({QKV: SUMS[:32]}, "q4_0", "32 sums for blk.0.attn_qkv.weight, whose rows have 64"),
        ({"blk.0.attn_q.weight": SUMS}, "q4_0", "no entry for a matrix of this model"),
        ({QKV: SUMS}, "f16", "no type that an importance matrix changes"),
        ({QKV: SUMS}, "q8_0", "no type that an importance matrix changes"),
    ],
)
def test_a_matrix_that_does_not_belong_is_refused(
    sums: dict[str, np.ndarray], kind: str, message: str, model: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / "i.gguf", imatrix_of(sums))
    with pytest.raises(SchemeError, match=message):
        read_importance(file, file_type(kind), read_config(model))
