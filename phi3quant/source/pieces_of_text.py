"""Token ids of a long text, encoded in pieces, equal to those of the whole text.

A tokenizer needs more than a hundred bytes of memory per character. A long text is therefore cut
into overlapping pieces. Two neighbouring pieces are joined in the middle of a stretch of the
overlap in which both have the same tokens at the same places. Byte-pair encoding doesn't depend on
what lies beyond such a stretch: a sequence of tokens is the encoding of its text if every pair of
adjacent tokens is. If there is no such stretch, the piece is lengthened until there is one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHARACTERS = 1 << 18
"""Length of a piece without its overlap, in characters; shorter texts are one piece."""
OVERLAP = 1 << 12
"""Characters that neighbouring pieces share."""
_STRETCH = 32
"""Number of consecutive tokens that must agree."""


@dataclass(frozen=True)
class Spans:
    """Tokens of a text and their positions in it.

    Attributes:
        ids: int32 [tokens].
        places: int32 [tokens, 2], index of the first character and of the one after the last.
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
        text: the whole text.
        limit: number of tokens needed; the rest of the text isn't encoded.
        characters: length of a piece.
        overlap: characters that neighbouring pieces share.

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
    """Index, in each piece, of a token at which the pieces can be joined; None if there is none.

    Args:
        here: the earlier piece.
        after: the later piece.
        offset: character of the earlier piece at which the later one begins.
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
