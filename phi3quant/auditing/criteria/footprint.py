"""Hardware footprint: stated sizes against the files and the estimates."""

import re
from collections.abc import Iterator
from dataclasses import replace

from phi3quant.auditing.card.card import Line
from phi3quant.auditing.card.numbers import StatedNumber, sizes
from phi3quant.auditing.finding import Point, contradicted, judged, not_shown, quoted, shown
from phi3quant.auditing.subject import Subject
from phi3quant.errors import Phi3QuantError
from phi3quant.estimating.estimate import Estimate, Plan, estimate
from phi3quant.estimating.members import Described
from phi3quant.source.weight_files import INDEX_FILE
from phi3quant.units import size

_MEMORY = re.compile(r"\b(?:v?ram|memory)\b", re.IGNORECASE)
_STORAGE = re.compile(
    r"\b(?:size|disk|storage|download|weights?|files?|footprint)\b", re.IGNORECASE
)
_FORMATS = re.compile(
    r"\b(?:i?q\d\w*|int[48]|[48][- ]?bits?|gguf|onnx|awq|gptq|quanti[sz]ed|"
    r"b?f(?:p|loat)?(?:16|32))\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.;])\s")
_TRAINING = ("train", "data", "compute")
_SLACK = 0.03
_MOST = 4
"""Stated memory above this multiple of what is needed is about something else."""


def hardware_footprint(subject: Subject) -> Iterator[Point]:
    """Points on the size of the weights and the memory to run them."""
    actual = subject.opened.model.weight_bytes
    yield shown("weights", f"{size(actual)} ({actual:,} bytes) of {subject.opened.model.format}")
    estimated = _estimated(subject)
    stated = [
        *_index(subject, actual),
        *(point for line in _lines(subject) for point in _line(subject, line, estimated)),
    ]
    yield from stated or [not_shown("", "neither a size nor the memory needed is stated")]


def _estimated(subject: Subject) -> Estimate | None:
    """Sizes and memory in every format; None if they can't be estimated for this model."""
    folder = subject.opened.folder if subject.opened.path.is_dir() else None
    described = Described(subject.opened.name, subject.config, folder)
    try:
        return estimate(described, Plan(), ())
    except Phi3QuantError:
        return None


def _index(subject: Subject, actual: int) -> Iterator[Point]:
    total = subject.index.get("total_size")
    if isinstance(total, int | float) and not isinstance(total, bool):
        yield judged(
            f"{INDEX_FILE} total_size",
            f"{quoted(total)} bytes; the tensors have {actual:,}",
            holds=total == actual,
        )


def _lines(subject: Subject) -> list[Line]:
    if subject.card is None:
        return []
    return [
        line for line in subject.card.prose if not any(word in line.section for word in _TRAINING)
    ]


def _own(subject: Subject, line: Line) -> bool:
    """Whether a line names the audited file itself."""
    return not subject.opened.path.is_dir() and subject.opened.path.name in line.text


def _line(subject: Subject, line: Line, estimated: Estimate | None) -> Iterator[Point]:
    for sentence in _SENTENCE.split(line.text):
        part = replace(line, text=sentence)
        for number in sizes(sentence):
            if _MEMORY.search(sentence):
                yield from _memory(subject, part, number, estimated)
            elif _STORAGE.search(sentence) or _own(subject, part):
                yield from _storage(subject, part, number, estimated)


def _memory(
    subject: Subject, line: Line, number: StatedNumber, estimated: Estimate | None
) -> Iterator[Point]:
    """Memory that can't hold the weights in any format is a contradiction."""
    actual = subject.opened.model.weight_bytes
    formats = [each.file_bytes for each in estimated.others] if estimated else []
    named = bool(_FORMATS.search(line.text)) and not _own(subject, line)
    least, most = min([actual, *formats]) if named else actual, max([actual, *formats])
    place, text = line.place, f"states {quoted(number.text)} of memory"
    if max(number.values) < least * (1 - _SLACK):
        yield contradicted(place, f"{text}; the weights have {size(least)}")
    elif min(number.values) <= most * _MOST + 8e9:
        yield shown(place, f"{text}; the weights have {size(actual)}")


def _storage(
    subject: Subject, line: Line, number: StatedNumber, estimated: Estimate | None
) -> Iterator[Point]:
    """A stated size must be that of the files, or of the format that the line names."""
    actual = subject.opened.model.weight_bytes
    place, text = line.place, f"states {quoted(number.text)}"
    file_bytes = sum(path.stat().st_size for path in subject.opened.model.files)
    if number.agrees(actual, _SLACK) or number.agrees(file_bytes, _SLACK):
        yield shown(place, text)
    elif _own(subject, line) or not _FORMATS.search(line.text):
        yield contradicted(place, f"{text}; the weights have {size(actual)}")
    else:
        formats = estimated.others if estimated else ()
        alike = next((each for each in formats if number.agrees(each.file_bytes, _SLACK)), None)
        if alike is not None:
            yield shown(place, f"{text}, as estimated for {alike.name} ({size(alike.file_bytes)})")
