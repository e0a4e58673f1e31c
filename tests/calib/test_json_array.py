import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib import json_array, text_files
from calib.json_array import array_elements
from phi3quant.errors import CorpusError
from tests.calib.texts import load

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(
    st.lists(VALUES),
    st.sampled_from([None, 1, 4]),
    st.integers(1, 50),
    st.sampled_from(["", "escaped"]),
)
def test_elements_are_those_of_the_array(
    values: list[Any], indent: int | None, chunk: int, escaped: str
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=bool(escaped))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "_CHUNK", chunk)
        elements = list(array_elements(io.StringIO(f" \n{text}\n "), 10**6, "a.json"))
    assert [json.loads(element) for element in elements] == values


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"text": "a"}', r"a\.json is not readable as a JSON array: after record 1 there is no"),
        (b'[{"text": "a"} {"text": "b"}]', "after record 1 there is no ']'"),
        (b'[{"text": "a"},]', "record 2 is not readable as JSON"),
        (b'[{"text": "a"}, {"text"', "record 2 is not readable as JSON"),
        (b'[{"text": "a"}] [', "has text after the array"),
        (b"[" * 100_000, "record 1 is not readable as JSON: it is nested too deeply"),
        (b'[{"text": ' + b"9" * 5000 + b"}]", "record 1 is not readable as JSON: a number"),
        (b'[{"text": NaN}]', "record 1 is not readable as JSON"),
        (b'[{"text": "a"}, 5]', "record 2: a record must be an object"),
        (b'[{"text": "\xff"}]', "not UTF-8"),
        ('[{"text": "a"}]'.encode("utf-16"), "not UTF-8"),
        (b'{"data": [\n{"text": "a"}]}', "line 1 is not readable as JSON"),
        (b'{"data": [{"text": "a"}]}', "line 1: the record has no field"),
        (b"[]", "holds no text"),
        (b"", "holds no text"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        load(tmp_path / "a.json")


def test_half_of_an_emoji_becomes_the_replacement_character(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(r'[{"text": "a \ud83d b \ud83d\ude42"}]')
    assert load(tmp_path / "a.json").documents == ("a \ufffd b 🙂",)


def test_an_endless_record_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "_MAX_LINE", 1000)
    monkeypatch.setattr(json_array, "_CHUNK", 100)
    (tmp_path / "a.json").write_text(json.dumps([{"text": "a"}, {"text": "b" * 2000}]))
    with pytest.raises(CorpusError, match="record 2 has more than 1,000 characters"):
        load(tmp_path / "a.json")


def test_a_large_array_is_read_only_as_far_as_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calib.corpus.MAX_CHARACTERS", 5000)
    rows = [{"text": f"{number:099}"} for number in range(30_000)]
    (tmp_path / "a.json").write_text(json.dumps(rows) + "no JSON")
    assert len(load(tmp_path / "a.json").documents) == 51
