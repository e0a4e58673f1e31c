"""Dataset disclosure: training data of the model, and calibration text of an artifact."""

from collections.abc import Iterator, Mapping
from typing import Any

from calib.corpus import load_corpus
from phi3quant.auditing.finding import Point, contradicted, judged, not_shown, quoted, shown
from phi3quant.auditing.subject import Subject, mapping
from phi3quant.errors import Phi3QuantError
from phi3quant.quant.methods import METHODS
from phi3quant.version import tool_version

_HEADINGS = ("training data", "dataset", "how it was made", "training procedure")
_FEWEST_WORDS = 8
_SHORT = 16


def dataset_disclosure(subject: Subject) -> Iterator[Point]:
    """Points on training data and calibration text."""
    yield from _training(subject)
    yield from _calibration(subject)


def _training(subject: Subject) -> Iterator[Point]:
    listed = {
        place: subject.stated(*keys)
        for place, keys in (
            ("card", ("datasets",)),
            ("metadata", ("", "general.datasets", "general.dataset.0.name")),
        )
    }
    names = {place: {each.value.lower() for each in texts} for place, texts in listed.items()}
    for statements in listed.values():
        if statements:
            values = ", ".join(quoted(each.value) for each in statements[:4])
            yield shown(statements[0].place, values)
    if all(names.values()) and not names["card"] & names["metadata"]:
        yield contradicted("general.datasets", "has none of the datasets that the card lists")
    lines = subject.card.section(*_HEADINGS) if subject.card else []
    labelled = subject.labelled("training data", "dataset", "datasets", "data")
    words = sum(len(line.text.split()) for line in lines)
    if words >= _FEWEST_WORDS:
        yield shown(lines[0].place, f"a section on training data, {words} words")
    elif labelled:
        yield shown(labelled[0].place, quoted(labelled[0].value))
    elif not any(listed.values()):
        yield not_shown("", "no training data is stated")


def _calibration(subject: Subject) -> Iterator[Point]:
    method = METHODS.get(str(subject.opened.recipe.get("method")))
    if method is None or not subject.opened.manifest:
        return
    recorded, place = subject.manifest("calibration"), "manifest calibration"
    if method.calibrated != bool(recorded):
        has = "has a calibration text" if recorded else "has no calibration text"
        yield contradicted(place, f"the recipe's method is {method.title}, but the manifest {has}")
    elif recorded:
        several = recorded.get("texts")
        for text in several if isinstance(several, list) else [recorded]:
            yield _text(mapping(text), place, subject)


def _text(recorded: Mapping[str, Any], place: str, subject: Subject) -> Point:
    """A calibration text, whose hash is compared with that of the bundled text."""
    name, digest = recorded.get("text"), str(recorded.get("text_sha256"))
    text = f"text {quoted(name)}, SHA-256 {quoted(digest[:_SHORT])}"
    actual = _bundled_digest(name, subject)
    if actual is None:
        return shown(place, text)
    end = ", as bundled" if actual == digest else f"; the bundled text has {actual[:_SHORT]}"
    return judged(place, text + end, holds=actual == digest)


def _bundled_digest(name: Any, subject: Subject) -> str | None:
    """SHA-256 of a bundled text that this version would calibrate on; None for other texts."""
    corpus, slash, part = str(name).partition("/")
    same_version = subject.manifest("tools").get("phi3quant") == tool_version()
    if part != "calibration" or not slash or corpus not in {"general", "tiny"} or not same_version:
        return None
    try:
        return str(load_corpus(corpus, part).as_json()["text_sha256"])
    except Phi3QuantError:
        return None
