"""Regular expressions from untrusted files, matched with names of modules in bounded time.

Python's ``re`` may take forever for an expression such as ``(a+)+b``. Here all ways through an
expression are followed at once (Thompson, 1968), and all expressions together take a limited number
of steps.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from phi3quant.errors import SchemeError
from phi3quant.model.config import shown

_MOST_CHARACTERS, _MOST_GROUPS, _MOST_STATES, _MOST_STEPS = 1_000, 30, 2_000, 2_000_000
_CHARACTER_STEPS = 20
_ALPHABET = frozenset(map(chr, range(128)))
"""Characters of the names of modules."""
# A name with its punctuation escaped, which needs no states.
_EXACT = re.compile(r"\^((?:\w|\\[^\w])*)\$")
_ANY_COUNT = re.compile(r"\{(\d{0,4})(?:(,)(\d{0,4}))?\}")
_CLASSES: dict[str, Callable[[str], bool]] = {
    "d": str.isdecimal,
    "w": lambda char: char.isalnum() or char == "_",
    "s": str.isspace,
}

Test = Callable[[str], bool]
"""Predicate of a character."""


def matching_names(expressions: Sequence[str], names: Collection[str]) -> list[frozenset[str]]:
    """Names that each expression matches from their start, as ``re.match``.

    Supported are literals, classes, groups, alternatives, repetitions, ``^`` and ``$``.

    Raises:
        SchemeError: an expression has another construct, or all of them are too long.
    """
    budget = _Budget(_MOST_STEPS)
    return [_matching(text, names, budget) for text in expressions]


def _matching(text: str, names: Collection[str], budget: "_Budget") -> frozenset[str]:
    exact = _EXACT.fullmatch(text)
    if exact:
        return frozenset({exact.group(1).replace("\\", "")}.intersection(names))
    # Characters cost more than states: each of a class is compared with the alphabet.
    budget.spend(_CHARACTER_STEPS * len(text), text)
    return _Expression(text).matching(names, budget)


@dataclass
class _Budget:
    steps: int

    def spend(self, steps: int, text: str) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise SchemeError(
                f"the expressions for modules in config.json take too long, up to {shown(text)}; "
                "replace them by names of modules"
            )


@dataclass
class _State:
    """State with its transitions.

    Attributes:
        moves: states after a character that passes a test.
        free: states without a character; ``^`` and ``$`` allow it only at an end of the name.
    """

    moves: list[tuple[Test, int]] = field(default_factory=list)
    free: list[tuple[str, int]] = field(default_factory=list)


class _Expression:
    """States of an expression; the parser adds them as it reads."""

    def __init__(self, text: str) -> None:
        self._text, self._place, self._groups = text, 0, 0
        self._states = [_State()]
        if len(text) > _MOST_CHARACTERS:
            raise self._too_long()
        self._last = self._alternatives(0)
        if self._place < len(text):
            raise self._unsupported()

    def matching(self, names: Collection[str], budget: _Budget) -> frozenset[str]:
        return frozenset(name for name in names if self._matches(name, budget))

    def _matches(self, name: str, budget: _Budget) -> bool:
        present = self._reached({0}, name, 0)
        for place, char in enumerate(name, 1):
            budget.spend(len(present) + 1, self._text)
            if self._last in present or not present:
                break
            moved = {
                after
                for state in present
                for test, after in self._states[state].moves
                if test(char)
            }
            present = self._reached(moved, name, place)
        return self._last in present

    def _reached(self, states: set[int], name: str, place: int) -> set[int]:
        """States that are reached from others without a character."""
        allowed = {"", *("^" * (place == 0)), *("$" * (place == len(name)))}
        reached, waiting = set(states), list(states)
        while waiting:
            for condition, after in self._states[waiting.pop()].free:
                if condition in allowed and after not in reached:
                    reached.add(after)
                    waiting.append(after)
        return reached

    def _new(self, *before: int) -> int:
        """A new state, reached from others without a character."""
        if len(self._states) >= _MOST_STATES:
            raise self._too_long()
        self._states.append(_State())
        number = len(self._states) - 1
        for state in before:
            self._states[state].free.append(("", number))
        return number

    def _next(self) -> str:
        return self._text[self._place : self._place + 1]

    def _skips(self, text: str) -> bool:
        """Whether ``text`` comes next; it is then skipped."""
        if not self._text.startswith(text, self._place):
            return False
        self._place += len(text)
        return True

    def _too_long(self) -> SchemeError:
        return SchemeError(
            f"the expression {shown(self._text)} for modules in config.json is too long; replace "
            "it by names of modules"
        )

    def _unsupported(self) -> SchemeError:
        rest = self._text[self._place :] or "its end"
        return SchemeError(
            f"the expression {shown(self._text)} for modules in config.json isn't supported from "
            f"{shown(rest)} on; replace it by names of modules"
        )

    def _alternatives(self, start: int) -> int:
        ends = [self._sequence(self._new(start))]
        while self._skips("|"):
            ends.append(self._sequence(self._new(start)))
        return self._new(*ends)

    def _sequence(self, start: int) -> int:
        while self._next() not in ("", "|", ")"):
            start = self._repeated(start)
        return start

    def _repeated(self, start: int) -> int:
        """An anchor, or an atom with the repetition that follows it."""
        for anchor in ("^", "$"):
            if self._skips(anchor):
                end = self._new()
                self._states[start].free.append((anchor, end))
                return end
        first = self._place
        begin = self._new(start)
        end = self._atom(begin)
        least, most = self._count()
        after = self._place
        if most is None:
            self._states[end].free.append(("", begin))
        copies = max(least, most or 1)
        ends = [end] if least <= 1 else []
        for number in range(2, copies + 1):
            self._place = first
            end = self._atom(self._new(end))
            ends += [end] if number >= least else []
        self._place = after
        return self._new(*ends, *([start] if least == 0 else []))

    def _count(self) -> tuple[int, int | None]:
        """Least and most repetitions; None for no limit. A lazy form matches the same names."""
        counts: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        braces = _ANY_COUNT.match(self._text, self._place)
        if self._next() in counts:
            count = counts[self._next()]
            self._place += 1
        elif braces and any(braces.group(1, 3)):
            least, comma, most = braces.groups()
            top = int(most) if most else None if comma else int(least)
            count = (int(least or 0), top)
            if top == 0 or (top is not None and top < count[0]):
                raise self._unsupported()
            self._place = braces.end()
        else:
            return 1, 1
        self._skips("?")
        return count

    def _atom(self, start: int) -> int:
        if self._skips("("):
            self._groups += 1
            if self._groups > _MOST_GROUPS:
                raise self._too_long()
            if self._next() == "?" and not self._skips("?:"):
                raise self._unsupported()
            end = self._alternatives(start)
            if not self._skips(")"):
                raise self._unsupported()
            self._groups -= 1
            return end
        test = self._test()
        end = self._new()
        self._states[start].moves.append((test, end))
        return end

    def _test(self) -> Test:
        if self._skips("."):
            return lambda char: char != "\n"
        if self._skips("["):
            return self._class()
        if self._next() in tuple("*+?{"):
            raise self._unsupported()
        return self._character()[1]

    def _character(self) -> tuple[str, Test]:
        """A literal character, or an escape with its test."""
        if not self._skips("\\"):
            char = self._next()
            if not char:
                raise self._unsupported()
            self._place += 1
            return char, char.__eq__
        kind = self._next()
        if not kind or (kind.isalnum() and kind.lower() not in _CLASSES):
            raise self._unsupported()
        self._place += 1
        if not kind.isalnum():
            return kind, kind.__eq__
        inside = _CLASSES[kind.lower()]
        return "", inside if kind.islower() else lambda char: not inside(char)

    def _class(self) -> Test:
        negated = self._skips("^")
        tests: list[Test] = []
        while not tests or self._next() != "]":
            low, test = self._character()
            if low and self._next() == "-" and self._text[self._place + 1 : self._place + 2] != "]":
                self._place += 1
                high, _ = self._character()
                if high < low:
                    raise self._unsupported()
                test = _within(low, high)
            tests.append(test)
        self._place += 1
        inside = frozenset(char for char in _ALPHABET if any(test(char) for test in tests))
        return (_ALPHABET - inside if negated else inside).__contains__


def _within(low: str, high: str) -> Test:
    return lambda char: low <= char <= high
