"""Architecture provenance: stored shapes, the published member they belong to, and the card."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from converters.onnx.graph import PAST_KEY
from converters.onnx.reader import OnnxModel
from phi3quant.auditing.card.numbers import StatedNumber, numbers
from phi3quant.auditing.finding import Point, contradicted, judged, not_shown, quoted, shown
from phi3quant.auditing.subject import Statement, Subject
from phi3quant.estimating.members import SHAPE, member_config, member_within, members_of_shape
from phi3quant.model.architecture import tensor_shapes
from phi3quant.source.adapter_reference import recorded_adapters


@dataclass(frozen=True)
class _Size:
    """A size of the model in cards.

    Attributes:
        labels: labels of its value.
        prose: pattern of a sentence that states it, with the number as its group; may be empty.
    """

    labels: tuple[str, ...]
    prose: str = ""


_SIZES: Mapping[str, _Size] = {
    "num_hidden_layers": _Size(
        (
            *("layers", "layer", "number of layers", "num layers", "num hidden layers"),
            *("hidden layers", "decoder layers", "transformer layers", "n layers", "blocks"),
        ),
        r"(?:has|have|with|of) (\d{1,4}) (?:\w+ )?(?:layers|blocks)|(\d{1,4})-layer\b",
    ),
    "hidden_size": _Size(
        ("hidden size", "hidden dimension", "hidden dim", "model dimension", "d model"),
        r"hidden (?:size|dimension) (?:of|is) (\d[\d,]{0,9})",
    ),
    "intermediate_size": _Size(("intermediate size", "ffn size", "feed-forward size", "ffn dim")),
    "num_attention_heads": _Size(
        ("heads", "attention heads", "number of heads", "num attention heads", "query heads"),
        r"(\d{1,4}) (?:attention|query) heads",
    ),
    "num_key_value_heads": _Size(
        ("key/value heads", "key-value heads", "kv heads", "num key value heads"),
        r"(\d{1,4}) (?:key[-/ ]value|kv) heads",
    ),
    "vocab_size": _Size(
        ("vocabulary", "vocabulary size", "vocab size", "vocab"),
        r"vocabulary(?: size)? of (?:up to )?`?(\d[\d,]{0,9}\s?[kK]?)\b",
    ),
    "max_position_embeddings": _Size(
        (
            *("context", "context length", "context window", "context size"),
            *("max context", "maximum context", "max position embeddings"),
        ),
        r"context (?:length|window|size) of (?:up to )?(\d[\d,]{0,9}\s?[kK]?)\b",
    ),
}
_ORIGINS = 16
_LOW_RANK = re.compile(r"\b(?:lora|adapter|frozen|draft|teacher)", re.IGNORECASE)


def architecture_provenance(subject: Subject) -> Iterator[Point]:
    """Points on shapes, family member, origin and the sizes that a card states."""
    model = subject.opened.model
    yield _graph(model) if isinstance(model, OnnxModel) else _tensors(subject)
    yield _member(subject)
    yield from _origin(subject)
    for key, size in _SIZES.items():
        yield from _sizes(subject, key, size)


def _tensors(subject: Subject) -> Point:
    """Shapes that were compared when the model was opened."""
    config = subject.config
    return shown(
        subject.config_place,
        f"all {len(tensor_shapes(config))} tensors have the shapes of the configuration "
        f"({config.num_hidden_layers} layers, hidden size {config.hidden_size})",
    )


def _graph(model: OnnxModel) -> Point:
    """The caches among a graph's inputs against the configuration."""
    config = model.config
    inputs = {value.name: value for value in model.graph.graph.input}
    caches = [name for name in inputs if name.endswith(".key")]
    first = inputs.get(PAST_KEY % 0)
    dims = [size.dim_value for size in first.type.tensor_type.shape.dim] if first else []
    expected = (config.num_hidden_layers, config.num_key_value_heads, config.head_dim)
    actual = (len(caches), *dims[1::2])
    text = "{} layers with {} key-value heads of {} values".format(*expected)
    if actual == expected:
        return shown("model.onnx inputs", text)
    graph = ", ".join(map(str, actual))
    return contradicted("config.json", f"{text}; the graph's caches have {graph}")


def _member(subject: Subject) -> Point:
    config, names = subject.config, members_of_shape(subject.config)
    if not names:
        return not_shown(
            subject.config_place,
            "no published member of the family has this shape, so there is none to compare with",
        )
    published = member_config(names[0]).vocab_size
    rows = "" if published == config.vocab_size else f"; {config.vocab_size:,} rows of vocabulary"
    extended = f" in place of {published:,}" if rows else ""
    return shown(subject.config_place, f"the shape of {' or '.join(names)}{rows}{extended}")


def _origin(subject: Subject) -> Iterator[Point]:
    """The model that this one was made from, against its shape."""
    origins = origins_of(subject)
    if not origins:
        yield not_shown("", "no base model is stated by a card, the metadata or a manifest")
    for origin in origins:
        member = member_within(origin.value)
        if member is None:
            yield shown(origin.place, f"made from {quoted(origin.value)}")
            continue
        differences = shape_differences(subject, member)
        text = f"made from {quoted(origin.value)}"
        yield judged(
            origin.place,
            f"{text}, whose shape it has" if not differences else f"{text}, but {differences}",
            holds=not differences,
        )
    for adapter in recorded_adapters(subject.opened.source)[:_ORIGINS]:
        yield shown("manifest source.adapters", f"with the adapter {quoted(str(adapter))} merged")


def origins_of(subject: Subject) -> list[Statement]:
    """Base models that the files state."""
    origins = subject.stated(
        "base_model",
        "general.base_model.0.name",
        "general.base_model.0.repo_url",
        "general.source.huggingface.repository",
        "general.source.url",
    )
    name = subject.opened.source.get("name")
    if isinstance(name, str) and name:
        origins.append(Statement("manifest source.name", name))
    return origins[:_ORIGINS]


def shape_differences(subject: Subject, member: str) -> str:
    """Sizes that differ from a member's, in words; empty if there are none."""
    published = member_config(member)
    return ", ".join(
        f"{key} is {getattr(subject.config, key)}, not {getattr(published, key)}"
        for key in SHAPE
        if getattr(subject.config, key) != getattr(published, key)
    )


def _sizes(subject: Subject, key: str, size: _Size) -> Iterator[Point]:
    """Sizes in labelled values, and in sentences if none of these is right."""
    actual = getattr(subject.config, key)
    for fact in subject.labelled(*size.labels):
        number = next(numbers(fact.value), None)
        if number is not None:
            yield _compared(fact.place, key, number, actual)
    sentences = list(_sentences(subject, size))
    right = [each for each in sentences if each[1].agrees(actual)]
    yield from (_compared(place, key, number, actual) for place, number in (right or sentences)[:1])


def _sentences(subject: Subject, size: _Size) -> Iterator[tuple[str, StatedNumber]]:
    if subject.card is None or not size.prose:
        return
    pattern = re.compile(size.prose, re.IGNORECASE)
    for line in subject.card.prose:
        if _LOW_RANK.search(line.text) or line.text.lstrip().startswith("|"):
            continue
        for match in pattern.finditer(line.text):
            text = next(group for group in match.groups() if group)
            yield from ((line.place, number) for number in numbers(text))


def _compared(place: str, key: str, number: StatedNumber, actual: int) -> Point:
    text = f"{key} {quoted(number.text)}"
    holds = number.agrees(actual)
    return judged(place, text if holds else f"{text}; the model has {actual:,}", holds=holds)
