"""Documents from records of data sets: plain text, or chats in OpenAI's or ShareGPT's format."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phi3quant.disk.untrusted_json import parse_json
from phi3quant.errors import CorpusError
from phi3quant.source.tokenizer import Message

DEFAULT_FIELDS = ("text", "content", "messages", "conversations")
"""Fields to search for the document, in this order; the first that isn't empty is used."""
BESIDE = ("tools", "system")
"""Fields of a chat in addition to its turns."""

_PLAIN = ("text", "content")
_ROLES: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
}
"""Roles by their names in ShareGPT's format."""


@dataclass(frozen=True)
class Chat:
    """The turns of a chat.

    Attributes:
        messages: turns with ``role``, ``content`` and any other keys that a template may read.
        tools: descriptions of tools for the template; None if there are none.
        place: file and line, for error messages; None for bundled text.
    """

    messages: Sequence[Message]
    tools: Sequence[Any] | None = None
    place: str | None = None

    def plain(self) -> Any:
        """The chat as JSON values, for digests."""
        turns = [dict(message) for message in self.messages]
        return turns if self.tools is None else {"messages": turns, "tools": list(self.tools)}


Document = str | Chat


@dataclass(frozen=True)
class Fields:
    """Field of the document in a record.

    Attributes:
        name: name of the field; None: any of DEFAULT_FIELDS.
        option: command-line option that sets the name, for error messages.
    """

    name: str | None
    option: str

    @property
    def names(self) -> Sequence[str]:
        """Fields that may contain the document."""
        return (self.name,) if self.name else DEFAULT_FIELDS


def read_record(record: Any, fields: Fields, place: str) -> Document | None:
    """Document in a record; None if its field is null or an empty list.

    Raises:
        CorpusError: the record is malformed.
    """
    if isinstance(record, str) and fields.name is None:
        return record
    if record is None:
        return None
    if not isinstance(record, Mapping):
        raise CorpusError(f"{place}: a record must be an object with named fields")
    present = [name for name in fields.names if name in record]
    if not present:
        raise CorpusError(
            f"{place}: the record has no field {' or '.join(fields.names)}; it has "
            f"{', '.join(map(str, record)) or 'none'}. Name the right one with {fields.option}"
        )
    name = next((name for name in present if record[name]), present[0])
    value = record[name]
    if value is None or value == []:
        return None
    if isinstance(value, str):
        turns = None if name in _PLAIN else _json_list(value)
        if turns is None:
            return value
        value = turns
    if not isinstance(value, list):
        raise _refused(place, name, f"it holds {_kind(value)}")
    return _chat(value, record, place, name)


def _chat(turns: Sequence[Any], record: Mapping[str, Any], place: str, name: str) -> Chat:
    where = f"{place}, {name}"
    messages = [
        _message(turn, f"{where}, turn {number}") for number, turn in enumerate(turns, start=1)
    ]
    system = record.get("system")
    if isinstance(system, str) and system and not any(m["role"] == "system" for m in messages):
        messages.insert(0, {"role": "system", "content": system})
    chat = Chat(messages, _tools(record.get("tools"), place), place)
    try:
        json.dumps(chat.plain())
    except (TypeError, ValueError, RecursionError) as error:
        raise CorpusError(f"{where}: {error}") from None
    return chat


def _tools(value: Any, place: str) -> Sequence[Any] | None:
    """Descriptions of tools from a list or its JSON text; None if there are none."""
    if isinstance(value, str):
        text = value.strip() or "null"
        value = parse_json(text, where=f"{place}: tools", raises=CorpusError, mend_halves=True)
    if value is not None and not isinstance(value, list):
        raise CorpusError(f"{place}: tools is {_kind(value)}, not a list")
    return value or None


def _message(turn: Any, where: str) -> Message:
    """A turn in OpenAI's format; keys that are null, except the content, are dropped."""
    if not isinstance(turn, Mapping):
        raise CorpusError(f"{where}: it is {_kind(turn)}, not an object with role and content")
    if "role" in turn:
        role, content, form = turn["role"], turn.get("content"), ("role", "content")
    elif "from" in turn:
        role, content, form = _ROLES.get(str(turn["from"])), turn.get("value"), ("from", "value")
    else:
        raise CorpusError(
            f"{where}: it has {', '.join(map(str, turn)) or 'no fields'}, but needs role and "
            "content, or from and value"
        )
    if not isinstance(role, str):
        raise CorpusError(f"{where}: its {form[0]} is {turn[form[0]]!r}, which is not a known role")
    rest = {key: value for key, value in turn.items() if key not in form and value is not None}
    if not (isinstance(content, str | list) or (content is None and rest)):
        raise CorpusError(f"{where}: its {form[1]} is {_kind(content)}, not text")
    return {"role": role, "content": content, **rest}


def _json_list(text: str) -> list[Any] | None:
    """List of objects from JSON text, which is common in parquet files; None for other text."""
    if not text.lstrip().startswith("["):
        return None
    try:
        value = parse_json(text, where="", raises=CorpusError, mend_halves=True)
    except CorpusError:
        return None
    return value if isinstance(value, list) and all(isinstance(x, dict) for x in value) else None


def _refused(place: str, name: str, reason: str) -> CorpusError:
    return CorpusError(
        f"{place}: the field {name} is neither text nor a list of messages with role and content "
        f"(or from and value): {reason}"
    )


def _kind(value: Any) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"
