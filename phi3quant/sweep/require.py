"""Requirements of a sweep, such as ``ppl_increase<5%``."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from phi3quant.errors import InputError
from phi3quant.sweep.outcome import Scored
from phi3quant.units import parsed_size, unknown

_FORM = re.compile(r"\s*([A-Za-z_]+)\s*(<=|>=|<|>)\s*(\S.*?)\s*")
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,15})?")
_RELATIONS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class _Metric:
    """A figure that can be required.

    Attributes:
        figure: its value for an artifact; None if it isn't finite.
        read: reads a limit; None if it isn't one.
        example: a limit, for messages.
        relations: relations that a requirement may use.
    """

    figure: Callable[[Scored], float | None]
    read: Callable[[str], float | None]
    example: str
    relations: tuple[str, ...] = ("<", "<=")


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


def _share(text: str) -> float | None:
    """A share such as 5% or 0.05; a bare number from 1 on would be a mistake."""
    number = _number(text.removesuffix("%").strip())
    if number is None or text.endswith("%"):
        return None if number is None else number / 100
    return number if number < 1 else None


_METRICS: Mapping[str, _Metric] = {
    "ppl_increase": _Metric(lambda each: each.increase, _share, "5%"),
    "kl": _Metric(lambda each: each.figures.kl_mean, _number, "0.02"),
    "bytes": _Metric(lambda each: each.nbytes, parsed_size, "2.2GB"),
    "bpw": _Metric(lambda each: each.bits_per_weight, _number, "5.5"),
    "same_top": _Metric(lambda each: each.figures.same_top, _share, "95%", (">", ">=")),
}


@dataclass(frozen=True)
class Requirement:
    """A limit on a figure.

    Attributes:
        text: requirement as it was passed.
        metric: name of the figure.
        relation: ``<``, ``<=``, ``>`` or ``>=``.
        limit: limit of the figure.
    """

    text: str
    metric: str
    relation: str
    limit: float

    def met(self, artifact: Scored) -> bool:
        """Whether an artifact meets it; one whose figure isn't finite doesn't."""
        value = _METRICS[self.metric].figure(artifact)
        return value is not None and _RELATIONS[self.relation](value, self.limit)


def parse_requirement(text: str) -> Requirement:
    """Read a requirement.

    Raises:
        InputError: it has another form, or an unknown figure.

    Examples:
        >>> parse_requirement("ppl_increase<5%").limit
        0.05
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} is not a requirement; write ppl_increase<5% or kl<=0.02")
    name, relation, limit = match.groups()
    metric = _METRICS.get(name.lower())
    if metric is None:
        raise InputError(f"{text!r}: {unknown('figure', name, _METRICS)}")
    form = f"{name.lower()}{metric.relations[0]}{metric.example}"
    if relation not in metric.relations:
        raise InputError(f"{text!r} would require a worse model; write {form}")
    value = metric.read(limit)
    if value is None:
        raise InputError(f"{text!r}: {limit!r} is not a limit of {name.lower()}; write {form}")
    return Requirement(text, name.lower(), relation, value)
