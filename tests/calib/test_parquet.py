import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calib import text_files
from phi3quant.errors import CorpusError
from tests.calib.texts import load


def not_utf8() -> pa.Array:
    return pa.StringArray.from_buffers(
        1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")
    )


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (not_utf8, r"row 1: 'utf-8' codec"),
        (lambda: pa.array([2**62], pa.timestamp("us")), "row 1"),
        (lambda: pa.array([dt.date(2025, 1, 1)]), "neither text nor a list"),
        (lambda: pa.array([1.5]), "neither text nor a list"),
        (lambda: pa.array([b"\xff"]), "neither text nor a list"),
        (lambda: pa.array([[["a"]]]), "turn 1: it is of type list"),
        (
            lambda: pa.array([[{"role": "user", "content": b"\xff"}]]),
            "its content is of type bytes",
        ),
        (
            lambda: pa.array([[{"role": "user", "content": "a", "at": dt.date(2025, 1, 1)}]]),
            "date is not JSON serializable",
        ),
    ],
)
def test_a_column_of_an_unsupported_type_is_refused(
    tmp_path: Path, column: Callable[[], pa.Array], message: str
) -> None:
    pq.write_table(pa.table({"messages": column()}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=message):
        load(tmp_path / "a.parquet")


def test_columns_that_are_not_needed_are_not_read(tmp_path: Path) -> None:
    table = pa.table({"text": ["one"], "at": pa.array([2**62], pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet").documents == ("one",)


@pytest.mark.parametrize("nested", [False, True])
def test_huge_rows_that_share_one_value_are_read_one_by_one(
    tmp_path: Path, *, nested: bool
) -> None:
    size = 10 << 20
    text = "a" * size
    row: Any = [{"role": "user", "content": text}] if nested else text
    table = pa.table({"messages": [row] * 12})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, compression="zstd")
    del table, row
    assert path.stat().st_size < 100_000
    pool = pa.system_memory_pool()
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        peak = pool.max_memory()
        corpus = load(path)
    finally:
        pa.set_memory_pool(before)
    assert len(corpus.documents) == 4
    assert pool.max_memory() - peak < 11 * size


def test_a_parquet_file_that_expands_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["a" * 1_000_000] * 12, "other": ["b" * 2_000_000] * 12})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    monkeypatch.setattr(text_files, "_MAX_EXPANDED", 13_000_000)
    assert len(load(path).documents) == 12
    monkeypatch.setattr(text_files, "_MAX_EXPANDED", 11_000_000)
    with pytest.raises(CorpusError, match=r"row 1: the column text expands .* to 12,000,"):
        load(path)
