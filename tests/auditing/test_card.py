"""Cards by anyone: front matter, labelled values, numbers; bounded and never executed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3quant.auditing.audit import audit
from phi3quant.auditing.card.card import MAX_BYTES, read_card
from phi3quant.auditing.card.facts import facts
from phi3quant.auditing.card.front_matter import parse_front_matter
from phi3quant.auditing.card.numbers import numbers, sizes
from phi3quant.auditing.criteria.licence import recognise
from phi3quant.auditing.finding import Standing
from phi3quant.visible import visible


def card_of(tmp_path: Path, text: str | bytes) -> list[tuple[str, str]]:
    (tmp_path / "README.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    card = read_card(tmp_path)
    assert card is not None
    return [(fact.label, fact.value) for fact in facts(card)]


def test_front_matter_has_scalars_and_lists_and_only_the_keys_of_objects() -> None:
    text = """license: "mit"  # see LICENSE
language:
- en
- 'de'
tags: [nlp, code]
model-index:
- name: x
  results:
  - task: y
datasets: !!python/object/apply:os.system ["echo"]
empty:
note: |
  several lines
"""
    fields = parse_front_matter(text.split("\n"))
    assert fields["license"] == ["mit"]
    assert fields["language"] == ["en", "de"]
    assert fields["tags"] == ["nlp", "code"]
    assert "model-index" in fields
    assert fields["datasets"] == ['!!python/object/apply:os.system ["echo"]']
    assert fields["empty"] == []


def test_labelled_values_are_read_from_tables_and_lists_outside_of_code(tmp_path: Path) -> None:
    text = """# Card
| layers, heads | 4, 2 |
|---|---|
| context | 1,024 tokens |

| layers | hidden size | heads |
|---|---|---|
| 32 | 3072 | 24 |

* **Context length**: 4K tokens
- Hidden_size: 64
```
layers: 99
```
"""
    assert card_of(tmp_path, text) == [
        ("layers", "4"),
        ("heads", "2"),
        ("context", "1,024 tokens"),
        ("layers", "32"),
        ("hidden size", "3072"),
        ("heads", "24"),
        ("context length", "4K tokens"),
        ("hidden size", "64"),
    ]


@pytest.mark.parametrize(
    ("text", "actual", "agrees"),
    [
        ("3.8B", 3_821_079_552, True),
        ("4B", 3_821_079_552, True),
        ("7B", 3_821_079_552, False),
        ("14 billion", 13_960_238_080, True),
        ("3,821,079,552", 3_821_079_552, True),
        ("3,821,079,553", 3_821_079_552, False),
        ("4K", 4096, True),
        ("128K", 131_072, True),
        ("128k", 4096, False),
        ("32,000", 32_064, True),
        ("32", 33, False),
    ],
)
def test_a_number_agrees_as_far_as_it_is_rounded(text: str, actual: int, *, agrees: bool) -> None:
    (number,) = numbers(text)
    assert number.agrees(actual) is agrees


def test_sizes_may_be_decimal_or_binary() -> None:
    (stated,) = sizes("a file of 7.12 GB")
    assert stated.agrees(7.12e9, 0.01)
    assert stated.agrees(7_642_159_104, 0.01)
    assert not list(sizes("4 GBit, 3G"))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Permission is hereby\ngranted, free of charge", "mit"),
        ("Apache License\n  Version 2.0", "apache-2.0"),
        ("GNU AFFERO GENERAL PUBLIC LICENSE Version 3", "agpl-3.0"),
        ("Redistribution and use in source and binary forms ... Neither the name", "bsd-3-clause"),
        ("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT", "llama"),
        ("All rights reserved", None),
    ],
)
def test_licences_are_recognised_by_their_phrases(text: str, kind: str | None) -> None:
    assert recognise(text) == kind


BROKEN: list[bytes] = [
    b"",
    b"---\n",
    b"---\nlicense: mit\n",
    b"---\n- a\n: b\n\xff\xfe\n---\n# \x1b[31mred\x1b[0m\n",
    b"---\nbase_model: \x1b]0;owned\x07\n---\n* Layers: \x1b[2J99\n",
    b"\xef\xbb\xbf---\r\nlicense: mit\r\n---\r\n# Phi-3\r\n",
    b"| " * 5000 + b"\n|---|\n",
    b"layers: " + b"9" * 100_000,
    b"* Layers: 3\n" * 50_000,
    b"#" * 100_000 + b"\n" + b"x\n" * 100_000,
    b"train " + b"1 a tokens " * 50_000,
    b"\x00" * 1000,
]


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_card_is_data_and_never_reaches_a_terminal_raw(folder: Path, text: bytes) -> None:
    (folder / "README.md").write_bytes(text)
    result = audit(folder)
    assert len(str(result.as_json())) < 100_000
    for finding in result.findings:
        for point in finding.points:
            assert visible(point.text) == point.text
            assert visible(point.place) == point.place


def test_a_long_card_is_read_up_to_a_limit_with_a_notice(folder: Path) -> None:
    with (folder / "README.md").open("ab") as file:
        file.write(b"\n" * MAX_BYTES)
        file.write(b"\n* Layers: 99\n")
    result = audit(folder)
    assert result["architecture provenance"].standing is Standing.SHOWN
    card = read_card(folder)
    assert card is not None
    assert card.truncated


def test_a_folder_or_a_missing_file_is_no_card(tmp_path: Path) -> None:
    assert read_card(tmp_path) is None
    (tmp_path / "README.md").mkdir()
    assert read_card(tmp_path) is None


def test_a_card_next_to_a_single_file_needs_front_matter(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# My downloads\n")
    assert read_card(tmp_path, required_mark=True) is None
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert read_card(tmp_path, required_mark=True) is not None


@given(st.lists(st.text(max_size=40), max_size=20))
def test_any_front_matter_can_be_read(lines: list[str]) -> None:
    for key, values in parse_front_matter(lines).items():
        assert isinstance(key, str)
        assert all(values)
