"""Axes of a grid: names of choices in a TOML table, and the values that each accepts."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from converters import FORMATS
from converters.gguf.type_policy import FILE_TYPES
from converters.onnx.options import ACCURACY_LEVELS, FLOATS, IR_VERSIONS, STORAGES
from phi3quant.errors import InputError
from phi3quant.quant.methods import METHODS
from phi3quant.quant.scheme import WHOLE_ROW
from phi3quant.run.choices import PRESET, PROFILE, TUNE
from phi3quant.run.presets import PRESETS
from phi3quant.run.profiles import PROFILES
from phi3quant.units import unknown

METHOD = "method"
"""Choice of the method, which isn't one of phi3quant.run.choices."""

# Integers of TOML are unbounded in Python.
_LARGEST = 2**63


@dataclass(frozen=True)
class Axis:
    """A choice that a grid varies.

    Attributes:
        choice: name in phi3quant.run.choices or phi3quant.sweep.layouts, or METHOD.
        read: checks one value from the file and converts it; raises InputError.
        lists: whether one value may itself be a list.
    """

    choice: str
    read: Callable[[Any], Any]
    lists: bool = False

    def values(self, entered: Any) -> list[Any]:
        """Values to try, from one value or a list of them.

        Raises:
            InputError: a value isn't accepted, or there is none.
        """
        several = entered if isinstance(entered, list) else [entered]
        if not several:
            raise InputError("the list is empty; leave the key out for the default")
        return [self.read(value) for value in several]


def _whole(value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _LARGEST:
        raise InputError(f"{_shown(value)} is not a whole number from {least} on")
    return value


def _among(numbers: Iterable[int], value: Any) -> int:
    number = _whole(value, 0)
    if number not in numbers:
        raise InputError(f"{number} is not one of {', '.join(map(str, numbers))}")
    return number


def _seed(value: Any) -> int:
    return _whole(value, -_LARGEST)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 16:
        raise InputError(f"{_shown(value)} is not a number from 1 to 16")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{_shown(value)} is neither true nor false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise InputError(f"{_shown(value)} is not a text in quotes")
    return value


def _group_size(value: Any) -> int | None:
    return None if value == WHOLE_ROW else _whole(value, 1)


def _name(kind: str, names: Iterable[str], value: Any) -> str:
    spelled = {name.lower(): name for name in names}
    text = _text(value)
    if text.lower() not in spelled:
        raise InputError(unknown(kind, text, spelled.values()))
    return spelled[text.lower()]


def _words(value: Any) -> list[str]:
    """One word, words separated by commas, or a list of words."""
    words = value if isinstance(value, list) else _text(value).split(",")
    return [_text(word).strip() for word in words]


def _formats(value: Any) -> tuple[str, ...]:
    formats = tuple(_name("format", FORMATS, word) for word in _words(value))
    if not formats:
        raise InputError("a list of formats is empty")
    return formats


def _types(value: Any) -> tuple[str, ...]:
    return tuple(_words(value))


def _calibration_texts(value: Any) -> str | tuple[str, ...]:
    """A text, or a mixture of texts in a list."""
    return tuple(map(_text, value)) if isinstance(value, list) else _text(value)


AXES: Mapping[str, Axis] = {
    "method": Axis(METHOD, partial(_name, "method", METHODS)),
    "preset": Axis(PRESET, partial(_name, "preset", PRESETS)),
    "profile": Axis(PROFILE, partial(_name, "profile", PROFILES)),
    "bits": Axis("bits", partial(_whole, least=1)),
    "group-size": Axis("group_size", _group_size),
    "sym": Axis("symmetric", _flag),
    "compensate": Axis("compensate", _flag),
    "target-bpw": Axis("target_bpw", _number),
    "gguf-type": Axis("gguf_type", partial(_name, "GGUF type", FILE_TYPES)),
    "tensor-type": Axis("tensor_types", _types, lists=True),
    "export": Axis("formats", _formats, lists=True),
    "embedding": Axis("embedding", partial(_name, "type of embedding", STORAGES)),
    "head": Axis("head", partial(_name, "type of head", STORAGES)),
    "io": Axis("io", partial(_name, "type of ONNX inputs", FLOATS)),
    "accuracy-level": Axis("accuracy_level", partial(_among, ACCURACY_LEVELS)),
    "opset": Axis("opset", partial(_among, IR_VERSIONS)),
    "calib": Axis("source", _calibration_texts, lists=True),
    "calib-field": Axis("field", _text),
    "samples": Axis("samples", partial(_whole, least=1)),
    "seq-len": Axis("length", partial(_whole, least=2)),
    "seed": Axis("seed", _seed),
    "tune": Axis(TUNE, _flag),
    "tune-windows": Axis("tune_windows", partial(_whole, least=1)),
    "tune-passes": Axis("tune_passes", partial(_whole, least=1)),
}
"""Axes by their key, which is the name of the option on the command line."""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
