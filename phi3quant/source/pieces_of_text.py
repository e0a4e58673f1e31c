"""Token ids of a long text, a piece at a time, equal to those of the whole.

A tokenizer keeps a hundred bytes and more for each character while it works. So a long text is cut
into pieces that overlap, and two neighbours are joined in the middle of a stretch of the overlap
where both have the same tokens at the same places. Byte-pair encoding is the same left and right of
such a place, whatever lies beyond: a sequence of tokens is the encoding of its text if each two
neighbours are. Where no such stretch exists, the piece grows until there is one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHARACTERS = 1 << 18
"""Length of a piece without its overlap; shorter texts are one piece."""
OVERLAP = 1 << 12
_STRETCH = 32
"""Tokens that must agree in a row."""


@dataclass(frozen=True)
class Spans:
    """Tokens of a text and where they lie in it.

    Attributes:
        ids: int32 [tokens].
        places: int32 [tokens, 2], first character and the one after the last.
    """

    ids: NDArray[np.int32]
    places: NDArray[np.int32]


def encode_in_pieces(
    spans: Callable[[str], Spans],
    text: str,
    limit: int | None = None,
    *,
    characters: int = CHARACTERS,
    overlap: int = OVERLAP,
) -> NDArray[np.int32]:
    """Encode a text of any length.

    Args:
        spans: encodes one piece.
        text: all of it.
        limit: tokens that are needed; the rest of the text isn't read.
        characters: length of a piece.
        overlap: characters that two neighbours share.

    Returns:
        int32 [tokens], at most ``limit``.
    """
    kept: list[NDArray[np.int32]] = []
    count = start = first = 0
    length = characters
    here = spans(text[: length + overlap])
    while start + length + overlap < len(text) and (limit is None or count < limit):
        after = spans(text[start + length : start + length + characters + overlap])
        joint = _joint(here, after, length)
        if joint is None or joint[0] < first:
            length += characters
            here = spans(text[start : start + length + overlap])
            continue
        kept.append(here.ids[first : joint[0]])
        count += len(kept[-1])
        start, length, here, first = start + length, characters, after, joint[1]
    kept.append(here.ids[first:])
    return np.concatenate(kept)[:limit]


def _joint(here: Spans, after: Spans, offset: int) -> tuple[int, int] | None:
    """Token of each piece at which the later one can take over, or None.

    Args:
        here: the earlier piece.
        after: the later one.
        offset: where the later one begins in the earlier one.
    """
    if not len(here.ids) or not len(after.ids):
        return None
    tail = int(np.searchsorted(here.places[:, 0], offset))
    shared = int(np.searchsorted(after.places[:, 0], int(here.places[-1, 1]) - offset))
    places = {
        (number, begin + offset, end + offset): index
        for index, (number, (begin, end)) in enumerate(
            zip(after.ids[:shared].tolist(), after.places[:shared].tolist(), strict=True)
        )
    }
    best, run, previous = (0, 0, 0), 0, -2
    for index in range(tail, len(here.ids)):
        begin, end = here.places[index].tolist()
        other = places.get((int(here.ids[index]), begin, end), -2)
        run = run + 1 if other >= 0 and other == previous + 1 else int(other >= 0)
        previous = other
        best = max(best, (run, index, other))
    run, index, other = best
    back = run // 2
    return (index - back, other - back) if run >= _STRETCH else None
