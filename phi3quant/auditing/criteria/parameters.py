"""Parameter count: the shapes' sum against what is stated."""

import math
import re
from collections.abc import Iterator

from phi3quant.auditing.card.numbers import NUMBER, StatedNumber, numbers, stated_number
from phi3quant.auditing.finding import Point, contradicted, not_shown, quoted, shown
from phi3quant.auditing.subject import Subject
from phi3quant.estimating.members import Described, member_config, members_of_shape
from phi3quant.model.architecture import EMBEDDING, tensor_shapes
from phi3quant.model.config import Phi3Config
from phi3quant.source.weight_files import INDEX_FILE

_LABELS = ("parameters", "parameter count", "params", "number of parameters", "model size", "size")
_PROSE = re.compile(NUMBER + r"[ -](?:model )?param(?:eter)?s?\b", re.IGNORECASE)
_SMALLEST = 1e5
_SLACK = 0.02


def parameter_count(subject: Subject) -> Iterator[Point]:
    """Points on the number of parameters."""
    actual = parameters(subject.config)
    names = members_of_shape(subject.config)
    member = f", {names[0]} has {parameters(member_config(names[0])):,}" if names else ""
    yield shown(subject.config_place, f"{actual:,} parameters in tensors of these shapes{member}")
    statements = [*_labelled(subject), *_metadata(subject)]
    sentences = list(_sentences(subject))
    right = [each for each in sentences if _agrees(each[1], actual)]
    statements += (right or sentences)[:1]
    if not statements:
        yield not_shown("", "no parameter count is stated")
    for place, number in statements:
        if _agrees(number, actual) or _counts_head_twice(number, subject.config, actual):
            yield shown(place, f"states {quoted(number.text)}")
        else:
            yield contradicted(place, f"states {quoted(number.text)}; the shapes give {actual:,}")


def parameters(config: Phi3Config) -> int:
    """Weights of a model, a tied head counted once."""
    return Described("", config, None).parameters


def _agrees(number: StatedNumber, actual: int) -> bool:
    return number.agrees(actual, _SLACK)


def _counts_head_twice(number: StatedNumber, config: Phi3Config, actual: int) -> bool:
    head = math.prod(tensor_shapes(config)[EMBEDDING])
    return config.tie_word_embeddings and _agrees(number, actual + head)


def _labelled(subject: Subject) -> Iterator[tuple[str, StatedNumber]]:
    for fact in subject.labelled(*_LABELS):
        number = next(numbers(fact.value), None)
        if number is not None and max(number.values) >= _SMALLEST:
            yield fact.place, number


def _metadata(subject: Subject) -> Iterator[tuple[str, StatedNumber]]:
    label = subject.metadata.get("general.size_label")
    if isinstance(label, str):
        yield from (("general.size_label", number) for number in list(numbers(label))[:1])
    total = subject.index.get("total_parameters")
    if isinstance(total, int):
        yield f"{INDEX_FILE} total_parameters", StatedNumber(f"{total:,}", float(total), 0.0)


def _sentences(subject: Subject) -> Iterator[tuple[str, StatedNumber]]:
    if subject.card is None:
        return
    for line in subject.card.prose:
        for match in _PROSE.finditer(line.text):
            number = stated_number(match)
            if max(number.values) >= _SMALLEST:
                yield line.place, number
