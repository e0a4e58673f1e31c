"""Training compute: stated hardware, time and tokens, and whether they fit each other."""

import re
from collections.abc import Iterator, Mapping

from phi3quant.auditing.card.card import Line
from phi3quant.auditing.card.numbers import NUMBER, stated_number
from phi3quant.auditing.criteria.parameters import parameters
from phi3quant.auditing.finding import Point, judged, not_shown, quoted, shown
from phi3quant.auditing.subject import Subject

_PEAKS: Mapping[str, float] = {
    "b200": 2.25e15,
    "h200": 0.99e15,
    "h100": 0.99e15,
    "h800": 0.99e15,
    "mi300x": 1.31e15,
    "tpu v5p": 0.46e15,
    "mi250": 0.39e15,
    "l40s": 0.37e15,
    "a100": 0.32e15,
    "a800": 0.32e15,
    "tpu v4": 0.28e15,
    "rtx 4090": 0.34e15,
    "a6000": 0.16e15,
    "v100": 0.13e15,
    "t4": 0.07e15,
}
"""Dense 16-bit operations per second at most, by the makers' data sheets, rounded up."""
_DEVICE = "|".join(re.escape(name).replace(r"\ ", "[ -]?") for name in _PEAKS)
_HARDWARE = re.compile(
    rf"(?<![\w.])(\d{{1,6}})(?: ?[x\u00d7])? (?:nvidia |amd )?({_DEVICE})", re.IGNORECASE
)
_ANY_HARDWARE = re.compile(rf"\b({_DEVICE})", re.IGNORECASE)
_TIME = re.compile(r"(?<![\w.,])(\d{1,5}(?:\.\d{1,3})?) ?-?(day|hour|week)s?\b", re.IGNORECASE)
_GPU_HOURS = re.compile(NUMBER + r" (?:GPU|device|accelerator)[ -]?hours", re.IGNORECASE)
_TOKENS = re.compile(NUMBER + r" (?:[a-z]{1,12} ){0,2}tokens", re.IGNORECASE)
_SECONDS: Mapping[str, int] = {"hour": 3600, "day": 86400, "week": 604800}
_TRAINED = re.compile(r"\btrain|\bsaw\b|\bfine-?tun|\bgpus?\b", re.IGNORECASE)
_FEWEST_TOKENS = 1e5
_PER_TOKEN = 6
"""Operations per parameter and token of training (Kaplan et al., 2020)."""


def training_compute(subject: Subject) -> Iterator[Point]:
    """Points on hardware, time and tokens."""
    lines = (
        [line for line in subject.card.prose if _TRAINED.search(_context(line))]
        if (subject.card)
        else []
    )
    hardware, tokens = _hardware(lines), _tokens(lines)
    time = _time(lines) or _device_hours(lines)
    if not any((hardware, time, tokens)):
        yield not_shown("", "no training compute is stated")
        return
    for name, stated in (("hardware", hardware), ("time", time), ("tokens", tokens)):
        if stated is None:
            yield not_shown("", f"the {name} of the training isn't stated")
        else:
            line, text, _ = stated
            yield shown(line.place, f"{name}: {quoted(text)}")
    if hardware and time and tokens and hardware[2] and time[2]:
        needed = _PER_TOKEN * parameters(subject.config) * tokens[2]
        available = hardware[2] * time[2]
        yield judged(
            hardware[0].place,
            f"{needed:.1e} operations for these tokens (6 per parameter and token) are "
            f"{needed / available:.0%} of the hardware's peak in that time",
            holds=needed <= available,
        )


_Stated = tuple[Line, str, float]
"""Line, text and value."""


def _context(line: Line) -> str:
    return f"{line.section} {line.text}"


def _hardware(lines: list[Line]) -> _Stated | None:
    """Operations per second of the stated devices at most; 0 if their number isn't stated."""
    for line in lines:
        if match := _HARDWARE.search(line.text):
            peak = _PEAKS[re.sub("[ -]+", " ", match[2].lower()).replace("rtx4090", "rtx 4090")]
            return line, match[0], int(match[1]) * peak
    for line in lines:
        if match := _ANY_HARDWARE.search(line.text):
            return line, match[0], 0.0
    return None


def _time(lines: list[Line]) -> _Stated | None:
    for line in lines:
        if match := _TIME.search(line.text):
            return line, match[0], float(match[1]) * _SECONDS[match[2].lower()]
    return None


def _tokens(lines: list[Line]) -> _Stated | None:
    for line in lines:
        for match in _TOKENS.finditer(line.text):
            number = stated_number(match)
            if max(number.values) >= _FEWEST_TOKENS:
                return line, match[0], number.values[0]
    return None


def _device_hours(lines: list[Line]) -> _Stated | None:
    """Hours of all devices together; 0 for the time itself, which isn't stated."""
    for line in lines:
        if match := _GPU_HOURS.search(line.text):
            return line, match[0], 0.0
    return None
