"""Documents from records of data sets.

A record is plain text, a chat in OpenAI's or ShareGPT's format, an instruction with its output in
Alpaca's format, or a prompt with its completion.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from calib.turns import kind, names, read_turns
from phi3quant.disk.untrusted_json import parse_json
from phi3quant.errors import CorpusError
from phi3quant.source.tokenizer import Message

DEFAULT_FIELDS = ("text", "content", "messages", "conversations")
"""Fields to search for the document, in this order; the first that isn't empty is used."""
_PLAIN = ("text", "content")

_ALPACA = ("instruction", "output")
_ALPACA_FURTHER = ("input", "history", "system")
_COMPLETION = ("prompt", "completion")
_CHAT_FURTHER = ("tools", "functions", "system", "documents", "chat_template_kwargs")
# Arguments of apply_chat_template, which a record's variables can't replace.
_RESERVED = frozenset({"messages", "tools", "add_generation_prompt"})


@dataclass(frozen=True)
class Chat:
    """The turns of a chat.

    Attributes:
        messages: turns with ``role``, ``content`` and any other keys that a template may read.
        tools: descriptions of tools for the template; None if there are none.
        place: file and line, for error messages; None for bundled text.
        variables: further variables of the template.
    """

    messages: Sequence[Message]
    tools: Sequence[Any] | None = None
    place: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> Any:
        """The chat as JSON values, for digests."""
        turns = [dict(message) for message in self.messages]
        further: dict[str, Any] = {} if self.tools is None else {"tools": list(self.tools)}
        if self.variables:
            further["variables"] = dict(self.variables)
        return {"messages": turns, **further} if further else turns


Document = str | Chat


@dataclass(frozen=True)
class Fields:
    """Field of the document in a record.

    Attributes:
        name: name of the field; None: any of DEFAULT_FIELDS, or one of the pairs.
        option: command-line option that sets the name, for error messages.
    """

    name: str | None
    option: str

    @property
    def names(self) -> Sequence[str]:
        """Fields that may contain the document."""
        return (self.name,) if self.name else DEFAULT_FIELDS

    def columns(self, present: Sequence[str]) -> Sequence[str]:
        """Columns that are read, of those that a file has; empty if there is no document."""
        wanted: Sequence[str] = ()
        if any(name in present for name in self.names):
            wanted = (*self.names, *_CHAT_FURTHER)
        elif self.name is None and all(name in present for name in _ALPACA):
            wanted = (*_ALPACA, *_ALPACA_FURTHER)
        elif self.name is None and all(name in present for name in _COMPLETION):
            wanted = (*_COMPLETION, *_CHAT_FURTHER)
        return [name for name in present if name in wanted]


def read_record(
    record: Any, fields: Fields, place: str, notes: Counter[str] | None = None
) -> Document | None:
    """Document in a record; None if its field is null, blank or an empty list.

    A record that is itself text, as in plain files, stays as it is.

    Args:
        record: JSON value.
        fields: field of the document.
        place: file and line, for messages.
        notes: receives a count for every part that is left out.

    Raises:
        CorpusError: the record is malformed.
    """
    notes = Counter() if notes is None else notes
    if fields.name is None and isinstance(record, str):
        return record
    if fields.name is None and _is_chat(record):
        record = {"messages": record}
    if record is None:
        return None
    if not isinstance(record, Mapping):
        raise CorpusError(f"{place}: a record must be an object with named fields")
    present = [name for name in fields.names if name in record]
    if not present:
        return _from_pair(record, fields, place, notes)
    name = next((name for name in present if record[name]), present[0])
    if fields.name is None and name == "content" and "role" in record:
        raise CorpusError(
            f"{place}: the record is one turn of a chat; a record must hold all turns of a chat, "
            f"as a list named messages. To read each turn as plain text, pass {fields.option} "
            "content"
        )
    return _from_field(record, name, place, notes)


def _is_chat(record: Any) -> bool:
    return isinstance(record, list) and all(isinstance(turn, Mapping) for turn in record)


def _from_field(
    record: Mapping[str, Any], name: str, place: str, notes: Counter[str]
) -> Document | None:
    value = record[name]
    if value is None or value == []:
        return None
    if isinstance(value, str):
        turns = None if name in _PLAIN else _json_list(value, f"{place}: the field {name}")
        if turns is None:
            return value if value.strip() else None
        value = turns
    if not isinstance(value, list):
        raise CorpusError(
            f"{place}: the field {name} is neither text nor a list of messages with role and "
            f"content (or from and value): it is {kind(value)}"
        )
    return _chat(read_turns(value, f"{place}, {name}", notes), record, place, notes)


def _from_pair(
    record: Mapping[str, Any], fields: Fields, place: str, notes: Counter[str]
) -> Document | None:
    """Document from an instruction and its output, or from a prompt and its completion."""
    if fields.name is None and all(name in record for name in _ALPACA):
        return _alpaca(record, place, notes)
    if fields.name is None and all(name in record for name in _COMPLETION):
        prompt, completion = (record[name] for name in _COMPLETION)
        if isinstance(prompt, list) and isinstance(completion, list):
            return _from_field(
                {**record, "messages": prompt + completion}, "messages", place, notes
            )
        text = _text(record, "prompt", place) + _text(record, "completion", place)
        return text if text.strip() else None
    raise CorpusError(
        f"{place}: the record has no field {' or '.join(fields.names)}; it has {names(record)}. "
        f"Name the right one with {fields.option}"
    )


def _alpaca(record: Mapping[str, Any], place: str, notes: Counter[str]) -> Document | None:
    pairs = []
    history = record.get("history") or []
    if not isinstance(history, list):
        raise CorpusError(f"{place}: history is {kind(history)}, not a list")
    for pair in history:
        if not (
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)
        ):
            raise CorpusError(f"{place}: history has an entry that isn't a question and an answer")
        pairs.append(pair)
    question = _text(record, "instruction", place)
    details = _text(record, "input", place)
    answer = _text(record, "output", place)
    if not (question.strip() or details.strip() or answer.strip()):
        return None
    pairs.append(["\n\n".join(filter(None, (question, details))), answer])
    turns: list[Message] = [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return _chat(turns, record, place, notes)


def _text(record: Mapping[str, Any], name: str, place: str) -> str:
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CorpusError(f"{place}: {name} is {kind(value)}, not text")
    return value


def _chat(
    messages: list[Message], record: Mapping[str, Any], place: str, notes: Counter[str]
) -> Chat:
    system = record.get("system")
    if isinstance(system, str) and system and not any(m["role"] == "system" for m in messages):
        messages.insert(0, {"role": "system", "content": system})
    tools, variables = _tools(record, place), _variables(record, place, notes)
    chat = Chat(messages, tools, place, variables)
    try:
        json.dumps(chat.plain())
    except (TypeError, ValueError, RecursionError) as error:
        raise CorpusError(f"{place}: {error}") from None
    return chat


def _tools(record: Mapping[str, Any], place: str) -> Sequence[Any] | None:
    """Descriptions of tools from a list or its JSON text; None if there are none."""
    for name in ("tools", "functions"):
        value = record.get(name)
        if isinstance(value, str):
            value = parse_json(
                value.strip() or "null",
                where=f"{place}: {name}",
                raises=CorpusError,
                mend_halves=True,
            )
        if value is not None and not isinstance(value, list):
            raise CorpusError(f"{place}: {name} is {kind(value)}, not a list")
        for tool in value or ():
            if not isinstance(tool, Mapping):
                raise CorpusError(f"{place}: {name} lists a value {kind(tool)}, not an object")
        if value:
            # The older name for a list of functions without their type.
            return (
                value
                if name == "tools"
                else [{"type": "function", "function": tool} for tool in value]
            )
    return None


def _variables(record: Mapping[str, Any], place: str, notes: Counter[str]) -> dict[str, Any]:
    """Variables of the template: documents, and options such as ``enable_thinking``."""
    variables = record.get("chat_template_kwargs") or {}
    if not isinstance(variables, Mapping):
        raise CorpusError(f"{place}: chat_template_kwargs is {kind(variables)}, not an object")
    taken = sorted(_RESERVED.intersection(variables))
    if taken:
        raise CorpusError(f"{place}: chat_template_kwargs can't set {', '.join(taken)}")
    documents = record.get("documents")
    if not documents:
        return dict(variables)
    if isinstance(documents, list) and all(isinstance(x, Mapping) for x in documents):
        return {"documents": documents, **variables}
    notes["documents left out, since they aren't objects with title and text"] += 1
    return dict(variables)


def _json_list(text: str, where: str) -> list[Any] | None:
    """List of objects from JSON text, which is common in parquet files; None for other text."""
    start = text.lstrip()[:1000]
    if not start.startswith("[") or not start[1:].lstrip().startswith("{"):
        return None
    try:
        value = parse_json(text, where=where, raises=CorpusError, mend_halves=True)
    except CorpusError as error:
        raise CorpusError(f"{error}; it should be a list of messages") from None
    return value if isinstance(value, list) else None
