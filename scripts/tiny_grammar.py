"""Helpers shared by the text generators: choices, characters, numbers in words."""

import random
import re
from dataclasses import dataclass

import tiny_words as w

_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
_ARTICLE = re.compile(r"@a (\w+)")


@dataclass(frozen=True)
class Person:
    """A character with the pronouns that fit."""

    name: str
    they: str
    them: str
    their: str
    job: w.Job
    trait: str
    adj: str


@dataclass(frozen=True)
class Thing:
    """An object with two adjectives, so that a text can refer back to it."""

    noun: str
    adj: str
    colour: str

    @property
    def full(self) -> str:
        """The phrase that introduces the object."""
        return f"{self.adj} {self.colour} {self.noun}"


def say(rng: random.Random, template: str, **slots: object) -> str:
    """Text of a template: `[a|b]` picks one, `{x}` fills a slot, `@a` becomes a or an."""
    while "[" in template:
        template = _ALTERNATIVES.sub(lambda m: rng.choice(m[1].split("|")), template)
    text = template.format(**slots)
    return _ARTICLE.sub(lambda m: ("an " if _vowel(m[1]) else "a ") + m[1], text)


def _vowel(word: str) -> bool:
    return (word[0] in "aeiouAEIOU8" and not word.startswith(("uni", "use"))) or word == "honest"


def prose(rng: random.Random, sentences: list[str], **slots: object) -> str:
    """Sentence templates joined into a paragraph whose sentences start with capitals."""
    text = " ".join(say(rng, s, **slots) for s in sentences if s)
    return text[:1].upper() + re.sub(
        r"([.!?] |\.\" )(\"?[a-z])", lambda m: m[1] + m[2].upper(), text[1:]
    )


def person(rng: random.Random, avoid: tuple[str, ...] = ()) -> Person:
    """A random character whose name is not one of `avoid`."""
    female = rng.random() < 0.5
    names = [n for n in (w.FEMALE if female else w.MALE) if n not in avoid]
    pronouns = ("she", "her", "her") if female else ("he", "him", "his")
    return Person(
        rng.choice(names),
        *pronouns,
        rng.choice(w.JOBS),
        rng.choice(w.TRAITS),
        rng.choice(w.PERSON_ADJ),
    )


def people(rng: random.Random, count: int) -> list[Person]:
    """Characters with different names."""
    found: list[Person] = []
    while len(found) < count:
        found.append(person(rng, tuple(p.name for p in found)))
    return found


def thing(rng: random.Random) -> Thing:
    """A random object."""
    return Thing(rng.choice(w.OBJECTS), rng.choice(w.OBJECT_ADJ), rng.choice(w.COLOURS))


def in_words(number: int) -> str:
    """English words for 0..9999."""
    if number < 20:
        return w.NUMBERS[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return w.TENS[tens] + (f"-{w.NUMBERS[ones]}" if ones else "")
    unit, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    head, rest = divmod(number, unit)
    joined = "" if not rest else (" and " if rest < 100 else " ") + in_words(rest)
    return f"{in_words(head)} {name}{joined}"


def listing(items: list[str], last: str = "and") -> str:
    """`a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


def names(p: Person, prefix: str) -> dict[str, str]:
    """Slots of one character: `{a}` name, `{a_they}`, `{a_them}`, `{a_their}`, ..."""
    return {
        prefix: p.name,
        f"{prefix}_they": p.they,
        f"{prefix}_them": p.them,
        f"{prefix}_their": p.their,
        f"{prefix}_job": p.job.name,
        f"{prefix}_tool": p.job.tool,
        f"{prefix}_work": p.job.place,
        f"{prefix}_task": p.job.task,
        f"{prefix}_trait": p.trait,
        f"{prefix}_adj": p.adj,
    }


def objects(t: Thing, prefix: str) -> dict[str, str]:
    """Slots of one object: `{x}` noun, `{x_full}`, `{x_adj}`, `{x_col}`."""
    return {
        prefix: t.noun,
        f"{prefix}_full": t.full,
        f"{prefix}_adj": t.adj,
        f"{prefix}_col": t.colour,
    }
