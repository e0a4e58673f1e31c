"""Values from untrusted manifests, checked for their type."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def listed(value: Any) -> Sequence[Any]:
    """The value if it is an array, else an empty one."""
    return value if isinstance(value, list | tuple) else ()


def number(value: Any) -> float | None:
    """The value if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        converted = float(value)
    except OverflowError:
        return None
    return converted if math.isfinite(converted) else None


def interval(value: Any) -> tuple[float, float] | None:
    """The value if it is two finite numbers, else None."""
    ends = [number(end) for end in listed(value)]
    if len(ends) != 2:
        return None
    low, high = ends
    return None if low is None or high is None else (low, high)
