"""Turns of a chat, in OpenAI's or ShareGPT's format."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from phi3quant.errors import CorpusError
from phi3quant.source.tokenizer import Message

_ROLES: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
}
"""Roles by their names in ShareGPT's format."""

# Keys that make a turn without content complete.
_IN_PLACE_OF_CONTENT = (
    *("tool_calls", "function_call", "refusal"),
    *("reasoning_content", "thinking", "reasoning"),
)
_MEDIA = frozenset(
    {
        *("image", "image_url", "input_image", "video", "video_url", "input_video"),
        *("audio", "audio_url", "input_audio", "file", "input_file"),
    }
)


def read_turns(turns: Sequence[Any], where: str, notes: Counter[str]) -> list[Message]:
    """Messages of a chat.

    Args:
        turns: objects with ``role`` and ``content``, or with ``from`` and ``value``.
        where: place of the chat, for error messages.
        notes: receives a count for every part that is left out.

    Raises:
        CorpusError: a turn is malformed.
    """
    return [
        _message(turn, f"{where}, turn {number}", notes) for number, turn in enumerate(turns, 1)
    ]


def _message(turn: Any, where: str, notes: Counter[str]) -> Message:
    """A turn in OpenAI's format; keys that are null, except the content, are dropped."""
    if not isinstance(turn, Mapping):
        raise CorpusError(f"{where}: it is {kind(turn)}, not an object with role and content")
    speaker, body = _first(turn, "role", "from"), _first(turn, "content", "value")
    if speaker is None:
        raise CorpusError(
            f"{where}: it has {names(turn)}, but needs role and content, or from and value"
        )
    role = turn[speaker] if speaker == "role" else _ROLES.get(str(turn[speaker]).lower())
    if not isinstance(role, str):
        raise CorpusError(
            f"{where}: its {speaker} is {short(turn[speaker])}, which is not a known role"
        )
    content = None if body is None else turn[body]
    rest = {
        key: value
        for key, value in turn.items()
        if key not in (speaker, body, "role", "content") and value is not None
    }
    if isinstance(content, list):
        content = _without_media(content, where, notes)
    if not (isinstance(content, str | list) or (content is None and _is_complete(rest))):
        name = body or ("content" if speaker == "role" else "value")
        raise CorpusError(f"{where}: its {name} is {kind(content)}, not text")
    return {"role": role, "content": content, **rest}


def _first(turn: Mapping[str, Any], *keys: str) -> str | None:
    """The first of the keys whose value isn't null, or else that is present at all."""
    present = [key for key in keys if key in turn]
    return next((key for key in present if turn[key] is not None), next(iter(present), None))


def _is_complete(rest: Mapping[str, Any]) -> bool:
    return any(rest.get(key) for key in _IN_PLACE_OF_CONTENT)


def _without_media(parts: Sequence[Any], where: str, notes: Counter[str]) -> list[Any]:
    """Parts without images, audio and files, which a model of text can't read."""
    kept = []
    for part in parts:
        if not isinstance(part, str | Mapping):
            raise CorpusError(f"{where}: a part of its content is {kind(part)}, not an object")
        name = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(name, str) and name in _MEDIA:
            notes[f"parts of type {name} left out, since only text is read"] += 1
        else:
            kept.append(part)
    return kept


def kind(value: Any) -> str:
    """Type of a JSON value, for messages."""
    return "null" if value is None else f"of type {type(value).__name__}"


def names(record: Mapping[str, Any]) -> str:
    """Names of an object's fields, for messages."""
    return short(", ".join(map(str, record)) or "no fields", str)


def short(value: Any, shown: Any = repr) -> str:
    """Beginning of a value, for messages."""
    text = str(shown(value))
    return text if len(text) <= 300 else f"{text[:297]}..."
