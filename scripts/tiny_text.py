"""Endless, seeded English text for training and testing the bundled model.

All phrases are original; the same seed always gives the same documents.
"""

import random
from collections.abc import Callable, Iterator

import tiny_facts as facts
import tiny_scenes as scenes
import tiny_stories as stories
from tiny_chat import chat

MIN_CHARS, MAX_CHARS = 200, 1500
_CHAT_SHARE = 0.17  # share of chats among the documents

_KINDS: list[tuple[Callable[[random.Random], str], int]] = [
    *((story, 4) for story in stories.STORIES),
    (stories.dialogue, 6),
    (stories.letter, 5),
    (stories.diary, 4),
    (stories.place_description, 5),
    (scenes.scene, 14),
    (scenes.biography, 5),
    (scenes.history, 4),
    (scenes.opinion, 4),
    (scenes.notice, 4),
    (scenes.guide, 4),
    (scenes.riddles, 3),
    (scenes.interview, 4),
    (facts.explanation, 4),
    (facts.animal, 5),
    (facts.material, 3),
    (facts.arithmetic, 4),
    (facts.counting, 2),
    (facts.comparison, 3),
    (facts.recipe, 3),
    (facts.shopping, 3),
    (facts.record, 4),
    (facts.weather, 3),
    (facts.code, 4),
    (facts.quiz, 4),
]


def _document(rng: random.Random) -> str:
    """One document; short ones are continued with more of the same kind."""
    if rng.random() < _CHAT_SHARE:
        return chat(rng)
    makers, weights = zip(*_KINDS, strict=True)
    make = rng.choices(makers, weights)[0]
    text = make(rng)
    while len(text) < MIN_CHARS:
        text += "\n\n" + make(rng)
    return str(text)


def documents(seed: int) -> Iterator[str]:
    """Endless documents of 200 to 1500 characters."""
    rng = random.Random(seed)
    while True:
        text = _document(rng)
        if MIN_CHARS <= len(text) <= MAX_CHARS:
            yield text


def text(seed: int, size_bytes: int) -> str:
    """Whole documents of about `size_bytes` bytes in total, between `<s>` and `<|endoftext|>`.

    This is the format of the training text.
    """
    parts: list[str] = []
    total = 0
    for document in documents(seed):
        part = document.rstrip()
        total += len(part.encode())
        if total > size_bytes:
            return "".join(parts)
        parts.append(f"<s>{part}<|endoftext|>")
    raise AssertionError("documents() is endless")
