"""Formats: a writer and a reader each, and a table of them (formats.py).

A writer takes codes, scales and folded norms, which look the same after RTN and AWQ. The names
below are imported when they are first used: modules that only compute sizes must not load torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converters.formats import (
        FORMATS,
        LAYOUTS,
        as_run,
        open_located,
        open_model,
        open_tokenizer,
        open_weights,
        parts_of,
        tokenizer_of,
    )

__all__ = [
    "FORMATS",
    "LAYOUTS",
    "as_run",
    "open_located",
    "open_model",
    "open_tokenizer",
    "open_weights",
    "parts_of",
    "tokenizer_of",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("converters.formats"), name)


def __dir__() -> list[str]:
    return __all__
