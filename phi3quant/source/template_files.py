"""Chat templates in the files of a model, by transformers' rules.

Files of their own replace all templates in tokenizer_config.json. Of several templates,
``tool_use`` is for chats with tools and ``default`` for all others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.errors import TokenizerError

TEMPLATE_FILE = "chat_template.jinja"
PROCESSOR_FILE = "chat_template.json"
NAMED_FOLDER = "additional_chat_templates"

MAX_BYTES = 1 << 20
"""Limit of a template's size; published ones have up to 40 KB."""

_DEFAULT, _TOOL_USE = "default", "tool_use"


@dataclass(frozen=True)
class ChatTemplates:
    """Chat templates of a model.

    Attributes:
        default: template for all chats; None if the model has none.
        tool_use: template for chats with tools, if there is one for them alone.
    """

    default: str | None = None
    tool_use: str | None = None


def chat_templates(folder: Path, settings: Mapping[str, Any]) -> ChatTemplates:
    """Read the chat templates of a model.

    Args:
        folder: folder of the model.
        settings: content of its tokenizer_config.json.

    Raises:
        TokenizerError: a template can't be read, or there are several and none is the default.
    """
    named, where = _from_files(folder), str(folder / NAMED_FOLDER)
    if not named:
        value, where = settings.get("chat_template"), str(folder / "tokenizer_config.json")
        if value is None:
            # The template of a multimodal model's processor.
            file = folder / PROCESSOR_FILE
            value = read_json_if_there(file, raises=TokenizerError).get("chat_template")
            where = str(file)
        if value is None:
            return ChatTemplates()
        where += ": chat_template"
        named = _by_name(value, where)
    default, tool_use = named.get(_DEFAULT), named.get(_TOOL_USE)
    if not isinstance(default, str):
        raise TokenizerError(
            f"{where} has no template named default (it has {_short(sorted(named))}); "
            f"save the right one as {TEMPLATE_FILE}"
        )
    return ChatTemplates(default, tool_use if isinstance(tool_use, str) else None)


def _from_files(folder: Path) -> dict[str, Any]:
    files = {_DEFAULT: folder / TEMPLATE_FILE}
    if (folder / NAMED_FOLDER).is_dir():
        named = (folder / NAMED_FOLDER).glob("*.jinja")
        files.update({file.name.removesuffix(".jinja"): file for file in named})
    return {
        name: _read(file) if name in (_DEFAULT, _TOOL_USE) else None
        for name, file in files.items()
        if file.is_file()
    }


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise TokenizerError(
                f"{file} has more than {MAX_BYTES >> 20} MiB, which no chat template needs"
            )
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{file} can't be read: {error}") from None


def _by_name(value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, str):
        return {_DEFAULT: value}
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, list):
        raise TokenizerError(
            f"{where} is {_short(value)}, neither a template nor a list of templates; save the "
            f"right one as {TEMPLATE_FILE}"
        )
    named = {}
    for entry in value:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise TokenizerError(f"{where} lists {_short(entry)}, not a name and a template")
        named[entry["name"]] = entry.get("template")
    return named


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
