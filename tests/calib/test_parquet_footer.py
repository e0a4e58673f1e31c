from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.parquet_footer import ColumnChunk, column_chunks
from phi3quant.errors import CorpusError
from tests.calib.texts import load

CHATS = [[{"role": "user", "content": f"Hi {number}"}] for number in range(500)]
TABLE = pa.table({"text": ["a" * 50] * 500, "messages": CHATS, "flag": [True] * 500})


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("rows", [100, 10_000])
@pytest.mark.parametrize("index", ["", "with an index of pages"])
def test_sizes_equal_pyarrow(tmp_path: Path, compression: str, rows: int, index: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        TABLE, path, compression=compression, row_group_size=rows, write_page_index=bool(index)
    )
    metadata = pq.ParquetFile(path).metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    assert column_chunks(path) == [
        [
            ColumnChunk(
                column.path_in_schema.split(".")[0],
                column.total_compressed_size,
                column.total_uncompressed_size,
            )
            for column in (group.column(number) for number in range(group.num_columns))
        ]
        for group in groups
    ]


def test_statistics_that_contradict_one_another_do_not_end_the_process(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["one", "two"]}), path)
    content = path.read_bytes()
    # Two levels in the histogram of a column that may be null; the schema says that it isn't.
    required = content.replace(b"\x15\x0c\x25\x02\x18\x04text", b"\x15\x0c\x25\x00\x18\x04text")
    assert required != content
    path.write_bytes(required)
    with pytest.raises(CorpusError, match="can't be read as parquet"):
        load(path)


@given(st.binary(max_size=200))
def test_any_footer_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "footer.parquet"
    path.write_bytes(data + len(data).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(ValueError, match="its footer"):
        column_chunks(path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\xff\xff\xff\x7fPAR1"])
def test_a_file_without_a_footer_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(ValueError, match="its footer"):
        column_chunks(tmp_path / "a.parquet")
