"""Reader of JSON arrays that parses one element at a time."""

import json
import re
from collections.abc import Iterator
from typing import IO

from phi3quant.errors import CorpusError

_CHUNK = 1 << 20
_MARK = re.compile(r"[^ \t\r\n]")


def array_elements(opened: IO[str], limit: int, where: str) -> Iterator[str]:
    """JSON text of each element of the array in a file.

    Args:
        opened: file whose first character besides white space is ``[``.
        limit: limit of an element's length, in characters.
        where: name of the file, for messages.

    Raises:
        CorpusError: the file isn't an array, or an element is longer than ``limit``.
    """
    source = _Source(opened, limit, where)
    source.expect("[")
    if source.next_mark() == "]":
        source.expect("]")
    else:
        yield source.element()
        while source.next_mark() == ",":
            source.expect(",")
            yield source.element()
        source.expect("]")
    if source.next_mark():
        raise CorpusError(f"{where} has text after the array")


class _Source:
    """Beginning of the file's rest, which grows as needed."""

    def __init__(self, opened: IO[str], limit: int, where: str) -> None:
        self._opened, self._limit, self._where = opened, limit, where
        self._text = ""
        self._position = 0
        self._number = 0
        self._decoder = json.JSONDecoder()

    def next_mark(self) -> str:
        """The next character besides white space; empty at the end."""
        while True:
            mark = _MARK.search(self._text, self._position)
            if mark:
                self._position = mark.start()
                return mark[0]
            self._position = len(self._text)
            if not self._grow(_CHUNK):
                return ""

    def expect(self, mark: str) -> None:
        """Pass a mark of the array."""
        if self.next_mark() != mark:
            raise CorpusError(
                f"{self._where} is not readable as a JSON array: after record {self._number} there "
                f"is no {mark!r}"
            )
        self._position += 1

    def element(self) -> str:
        """The element that begins here."""
        self._number += 1
        self.next_mark()
        size = _CHUNK
        while True:
            try:
                _, end = self._decoder.raw_decode(self._text, self._position)
            except (ValueError, RecursionError) as error:
                # The element may continue in what wasn't read yet.
                if not isinstance(error, json.JSONDecodeError) or not self._grow(size):
                    raise CorpusError(
                        f"{self._where}, record {self._number} is not readable as JSON: "
                        f"{_reason(error)}"
                    ) from None
            else:
                # A number may continue.
                if end < len(self._text) or not self._grow(size):
                    element = self._text[self._position : end]
                    self._position = end
                    return element
            size = len(self._text)

    def _grow(self, size: int) -> bool:
        if len(self._text) - self._position > self._limit:
            raise CorpusError(
                f"{self._where}, record {self._number} has more than {self._limit:,} characters"
            )
        self._text, self._position = self._text[self._position :], 0
        chunk = self._opened.read(size)
        self._text += chunk
        return bool(chunk)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return (
        "it is nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
    )
