"""Identity consistency: names and the model's own answer against its shape."""

import re
from collections.abc import Iterator, Mapping

from phi3quant.auditing.criteria.architecture import shape_differences
from phi3quant.auditing.finding import Point, contradicted, judged, not_shown, quoted, shown
from phi3quant.auditing.subject import Statement, Subject
from phi3quant.estimating.members import member_config, member_within

QUESTION = "What is your name, and which company made you?"
MAX_NEW_TOKENS = 64

_OTHERS: Mapping[str, tuple[str, ...]] = {
    "Llama": ("llama", "meta"),
    "GPT": ("gpt", "chatgpt", "openai"),
    "Claude": ("claude", "anthropic"),
    "Gemini or Gemma": ("gemini", "gemma", "bard", "google", "deepmind"),
    "Mistral": ("mistral", "mixtral"),
    "Qwen": ("qwen", "tongyi", "alibaba"),
    "DeepSeek": ("deepseek",),
    "Falcon": ("falcon",),
    "Grok": ("grok", "xai"),
}
"""Names of models and makers outside of the family."""
_FAMILY = ("phi", "microsoft")
_NEGATION = re.compile(r"\b(?:not|no|never|unlike|isn't|n't)\b", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?\n]+")
_CONTEXT = re.compile(r"(?<![a-z0-9])\d{1,3}k(?![a-z0-9])", re.IGNORECASE)


def identity_consistency(subject: Subject) -> Iterator[Point]:
    """Points on each name of the model and on its answer."""
    names = _names(subject)
    points = [point for name in names for point in _named(subject, name)]
    yield from points
    same = _same(names)
    if same is not None:
        yield same
    elif not points:
        yield not_shown("", "no name refers to a published model or occurs twice")
    if subject.answer is not None:
        yield _answered(subject.answer)


def _names(subject: Subject) -> list[Statement]:
    names = [
        Statement("name", subject.opened.name),
        *subject.stated("model_name", "general.name", "general.basename"),
    ]
    if subject.card and subject.card.title:
        names.append(Statement("README.md title", subject.card.title))
    path = subject.config.raw.get("_name_or_path")
    if isinstance(path, str) and path:
        names.append(Statement("config.json _name_or_path", path))
    return names


def _same(names: list[Statement]) -> Point | None:
    """A name that several places state, whatever folder or file has it."""
    places: dict[str, list[str]] = {}
    for each in names:
        plain = "-".join(_words(each.value.rstrip("/").rsplit("/", 1)[-1]))
        places.setdefault(plain, []).append(each.place)
    plain, agreeing = max(places.items(), key=lambda entry: len(entry[1]))
    if len(agreeing) < 2 or not plain:
        return None
    return shown(", ".join(agreeing), f"the same name: {quoted(plain)}")


def _named(subject: Subject, name: Statement) -> Iterator[Point]:
    """The member of the family that a name refers to, against the model's shape."""
    last = name.value.rstrip("/").rsplit("/", 1)[-1]
    member = member_within(last)
    if member is not None:
        differences = shape_differences(subject, member) or _context_difference(
            subject, member, last
        )
        text = f"{quoted(last)} is {member}"
        yield judged(
            name.place,
            f"{text}, but {differences}" if differences else f"{text}, by its shape too",
            holds=not differences,
        )
        return
    others = claimed(last)
    if others and not _is_family(last):
        yield contradicted(
            name.place, f"{quoted(last)} names {others[0]}; the architecture is Phi-3"
        )


def _context_difference(subject: Subject, member: str, name: str) -> str:
    """Difference of the context, if the name states one, such as 128k."""
    context = member_config(member).max_position_embeddings
    actual = subject.config.max_position_embeddings
    if context == actual or not _CONTEXT.search(name):
        return ""
    return f"max_position_embeddings is {actual}, not {context}"


def _answered(answer: str) -> Point:
    place = "answer to --ask"
    if _is_family(answer):
        return shown(place, quoted(answer))
    others = claimed(answer)
    if others:
        return contradicted(place, f"claims to be {others[0]}: {quoted(answer)}")
    return not_shown(place, f"names neither a model nor a maker: {quoted(answer)}")


def claimed(text: str) -> list[str]:
    """Models outside of the family that a text names without a negation in the same sentence.

    Examples:
        >>> claimed("I am ChatGPT, made by OpenAI."), claimed("I'm not ChatGPT.")
        (['GPT'], [])
    """
    sentences = [part for part in _SENTENCE.split(text) if not _NEGATION.search(part)]
    words = {word for part in sentences for word in _words(part)}
    return [
        name
        for name, marks in _OTHERS.items()
        if any(word == mark or word.startswith(f"{mark}-") for word in words for mark in marks)
    ]


def _is_family(text: str) -> bool:
    return any(re.fullmatch(r"phi[\d.]*", word) or word in _FAMILY for word in _words(text))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:[\d.]*\d)?", text.lower())
