from pathlib import Path
from typing import Any

import pytest

from phi3quant.disk.untrusted_json import MAX_FILE_BYTES, parse_json, read_json, read_json_if_there
from phi3quant.errors import CheckpointError, ConfigError

BROKEN = {
    "deeply nested lists": b"[" * 100_000 + b"]" * 100_000,
    "deeply nested objects": b'{"a":' * 3000 + b"1" + b"}" * 3000,
    "5,000 digits": b"9" * 5000,
    "past the range": b"1e400",
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "not UTF-8": b'"\xff"',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "half of a pair": rb'{"a": "\ud800"}',
    "the other half": rb'{"\udc00": 1}',
    "halves the wrong way round": rb'"\udc00\ud800"',
    "truncated": b'{"a": ',
    "empty": b"",
    "trailing garbage": b"{}\0",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_broken_json_is_refused_with_a_message_of_one_line(text: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^the file") as caught:
        parse_json(text, where="the file", raises=ConfigError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (rb'"\ud83d\ude00"', "\N{GRINNING FACE}"),
        (rb'"\\ud800"', "\\ud800"),
        (b"1000000000000000019884624838656", 1000000000000000019884624838656),
        ("[1.5, null, true]", [1.5, None, True]),
    ],
)
def test_good_json_is_read(text: bytes | str, value: Any) -> None:
    assert parse_json(text, where="the file") == value


def test_half_of_a_surrogate_pair_can_be_replaced() -> None:
    assert parse_json(rb'"a\ud83d"', where="x", mend_halves=True) == "a\N{REPLACEMENT CHARACTER}"


def test_a_value_of_the_wrong_type_is_refused_with_its_path() -> None:
    with pytest.raises(CheckpointError, match=r"the file: Expected `int`, got `str` - at `\$"):
        parse_json(b'{"bytes": "many"}', dict[str, int], where="the file")


def test_a_file_must_hold_an_object_unless_another_type_is_given(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[1]")
    with pytest.raises(CheckpointError, match=r"x\.json: Expected `object`, got `array`"):
        read_json(path)
    assert read_json(path, list[int]) == [1]
    assert read_json_if_there(tmp_path / "none.json") == {}
    with pytest.raises(CheckpointError, match="can't be read"):
        read_json(tmp_path / "none.json")


def test_a_huge_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(CheckpointError, match="has 268,435,457 bytes"):
        read_json(path)
