"""Texts with shares, and the windows that each gives to a mixture."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib.mixture import WRITTEN_WINDOWS, TextShare, portions, text_share, text_shares
from phi3quant.errors import CorpusError


@pytest.mark.parametrize(
    ("entry", "source", "share"),
    [
        ("general", "general", 1.0),
        ("general=2", "general", 2.0),
        ("chats.jsonl=0.5", "chats.jsonl", 0.5),
        ("hf:name:config:split=3", "hf:name:config:split", 3.0),
        ("self:512=4", "self:512", 4.0),
        ("a=b=2", "a=b", 2.0),
        ("=2", "=2", 1.0),
        (Path("chats.jsonl=2"), Path("chats.jsonl=2"), 1.0),
    ],
)
def test_a_share_follows_an_equals_sign(
    entry: str | Path, source: str | Path, share: float
) -> None:
    assert text_share(entry) == TextShare(source, share)


def test_a_path_that_exists_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl=2"
    path.touch()
    assert text_share(str(path)) == TextShare(str(path))
    assert text_share(f"{path}=3") == TextShare(str(path), 3.0)


@pytest.mark.parametrize("share", ["0", "-1", "nan", "inf", "two", "", "1e999"])
def test_a_share_that_is_not_a_positive_number_is_refused(share: str) -> None:
    with pytest.raises(CorpusError, match="is not a share of general; a share is a positive"):
        text_share(f"general={share}")


@pytest.mark.parametrize("number", ["0", "", "-1", "x", "1.5", "100001", "²", "9" * 5000])
def test_a_number_of_written_windows_out_of_range_is_refused(number: str) -> None:
    with pytest.raises(CorpusError, match="is not a number of windows"):
        text_share(f"self:{number}")


def test_windows_that_the_model_writes() -> None:
    assert TextShare("self").written_windows == WRITTEN_WINDOWS
    assert TextShare("self:7").written_windows == 7
    assert TextShare("selfish").written_windows is None


@pytest.mark.parametrize(
    "entries",
    [
        ("general", "general=2"),
        ("self", "self:64"),
        ("a/../text.txt", "text.txt"),
        (Path("text.txt"), "text.txt"),
    ],
)
def test_a_text_that_is_listed_twice_is_refused(entries: tuple[str | Path, ...]) -> None:
    with pytest.raises(CorpusError, match="is listed twice"):
        text_shares(entries)


@pytest.mark.parametrize(
    ("available", "shares", "total", "expected"),
    [
        ([100, 100], [1, 1], 64, [32, 32]),
        ([100, 100], [1, 3], 64, [16, 48]),
        ([5, 100], [1, 1], 64, [5, 59]),
        ([5, 3], [1, 1], 64, [5, 3]),
        ([100, 100, 100], [1, 1, 1], 64, [22, 21, 21]),
        ([100, 100], [1e-300, 1e300], 64, [0, 64]),
        ([10, 10, 100], [1, 1, 2], 60, [10, 10, 40]),
        ([7], [3], 64, [7]),
        ([0, 9], [5, 1], 4, [0, 4]),
    ],
)
def test_portions(
    available: list[int], shares: list[float], total: int, expected: list[int]
) -> None:
    assert portions(available, shares, total) == expected


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(0.01, 100)), min_size=1, max_size=5),
    st.integers(1, 120),
)
def test_portions_use_all_they_can_and_no_text_beyond_its_end(
    texts: list[tuple[int, float]], total: int
) -> None:
    available, shares = [number for number, _ in texts], [share for _, share in texts]
    counts = portions(available, shares, total)
    assert sum(counts) == min(total, sum(available))
    for index, (count, most) in enumerate(zip(counts, available, strict=True)):
        assert 0 <= count <= most
        # Windows of texts that have more are as many as the shares give, except for rounding.
        for other, further in enumerate(counts):
            if count < most and further < available[other]:
                assert (count + 1) / shares[index] > (further - 1) / shares[other]
