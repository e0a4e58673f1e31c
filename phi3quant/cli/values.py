"""Types of the values that options take, each with messages that show how to write one."""

import re
from collections.abc import Iterable
from pathlib import Path

import click

from phi3quant.quant.scheme import WHOLE_ROW
from phi3quant.units import parsed_size, unknown

_Parameter = click.Parameter | None
_Context = click.Context | None

OUTPUT = click.Path(path_type=Path)
"""A folder to create; the library checks it."""


class GroupSize(click.ParamType[int | None]):
    """A number of weights, or ``row`` for whole rows (None)."""

    name = "group size"

    def convert(self, value: object, param: _Parameter, ctx: _Context) -> int | None:
        """Read the number; the scheme checks whether it is supported."""
        if value is None or isinstance(value, int):
            return value
        if value == WHOLE_ROW:
            return None
        try:
            return int(str(value))
        except ValueError:
            self.fail(f"{value!r} is neither a number nor {WHOLE_ROW!r}", param, ctx)


class Percent(click.ParamType[float]):
    """A share such as ``5%`` or ``0.05``; 0.05 either way.

    A bare number from 1 on is refused: most people mean 8% by 8, and it would allow 800%.
    """

    name = "percent"

    def convert(self, value: object, param: _Parameter, ctx: _Context) -> float:
        """Read the share."""
        if isinstance(value, float):
            return value
        text = str(value)
        number = text.removesuffix("%").strip()
        try:
            share = float(number) / 100 if text.endswith("%") else float(number)
        except ValueError:
            self.fail(f"{value!r} is not a share; write 5% or 0.05", param, ctx)
        if not 0 <= share < float("inf"):
            self.fail(f"{value!r} must not be negative or infinite", param, ctx)
        if share >= 1 and number == value:
            meant = f"{number}% or {float(number) / 100:g}"
            self.fail(f"{value!r} would be {share:.0%}; write {meant}", param, ctx)
        return share


class Size(click.ParamType[int]):
    """Bytes: ``2GB`` or ``500M`` are decimal, as llama.cpp counts them; ``4GiB`` is binary."""

    name = "size"

    def convert(self, value: object, param: _Parameter, ctx: _Context) -> int:
        """Read the number."""
        if isinstance(value, int):
            return value
        nbytes = parsed_size(str(value))
        if not nbytes:
            self.fail(f"{value!r} is not a size; write 2GB, 500MB or 4GiB", param, ctx)
        return nbytes


class Contexts(click.ParamType[tuple[int, ...]]):
    """Numbers of tokens, separated by commas."""

    name = "contexts"

    def convert(self, value: object, param: _Parameter, ctx: _Context) -> tuple[int, ...]:
        """Read the numbers; the model decides how long they may be."""
        if isinstance(value, tuple):
            return value
        words = [word.strip().replace("_", "") for word in str(value).split(",")]
        if not all(re.fullmatch(r"[0-9]{1,12}", word) and int(word) > 0 for word in words):
            self.fail(f"{value!r} is not a context; write 4096, or 1024,2048,4096", param, ctx)
        return tuple(sorted({int(word) for word in words}))


class OutputFile(click.ParamType[Path]):
    """A file to write in an existing folder, which is checked before any work starts."""

    name = "file"

    def convert(self, value: object, param: _Parameter, ctx: _Context) -> Path:
        """Check the folder; the command decides whether the file may be replaced."""
        path = Path(str(value))
        if not path.parent.is_dir():
            self.fail(f"there is no folder {path.parent} to write {path.name} to", param, ctx)
        if path.is_dir():
            self.fail(f"{path} is a folder", param, ctx)
        return path


class Name(click.ParamType[str]):
    """One of some names, in any case; a message about another one names the closest.

    Args:
        kind: of the things that are named, such as "preset".
        names: all of them.
    """

    def __init__(self, kind: str, names: Iterable[str]) -> None:
        self.name = kind
        self._names = tuple(names)

    def convert(self, value: object, param: _Parameter, ctx: _Context) -> str:
        """The name as it is spelled in the list."""
        spelled = {name.lower(): name for name in self._names}
        text = str(value).strip()
        if text.lower() not in spelled:
            self.fail(unknown(self.name, text, self._names), param, ctx)
        return spelled[text.lower()]

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """The names themselves, if there are few."""
        del param, ctx
        few = sum(map(len, self._names)) < 40
        return f"[{'|'.join(self._names)}]" if few else self.name.split()[-1].upper()


class Words(click.ParamType[tuple[str, ...]]):
    """Words separated by commas.

    Args:
        kind: of the things that the words name, such as "model".
    """

    def __init__(self, kind: str) -> None:
        self.name = f"{kind}s"

    def convert(self, value: object, param: _Parameter, ctx: _Context) -> tuple[str, ...]:
        """Each of the words."""
        del param, ctx
        if isinstance(value, tuple):
            return value
        return tuple(word.strip() for word in str(value).split(",") if word.strip())


class Names(click.ParamType[tuple[str, ...]]):
    """Names as ``Name`` takes them, separated by commas."""

    def __init__(self, kind: str, names: Iterable[str]) -> None:
        self.name = kind
        self._one = Name(kind, names)

    def convert(self, value: object, param: _Parameter, ctx: _Context) -> tuple[str, ...]:
        """Each of the names."""
        if isinstance(value, tuple):
            return value
        words = [word for word in str(value).split(",") if word.strip()]
        if not words:
            self.fail(f"no {self.name} is given", param, ctx)
        return tuple(self._one.convert(word, param, ctx) for word in words)
