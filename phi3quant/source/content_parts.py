"""Content of a message in parts, as in OpenAI's format: ``[{"type": "text", "text": "Hi"}]``.

Templates of multimodal models read such lists; those of text models expect one text.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from phi3quant.errors import TokenizerError
from phi3quant.source.chat_template import render_template

_TEXT_KINDS = ("text", "input_text", "output_text")
_PROBE = "phi3quant-trial"


def has_parts(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any content is a list of parts."""
    return any(isinstance(message.get("content"), list) for message in messages)


@lru_cache(maxsize=8)
def reads_parts(template: str, special_tokens: tuple[tuple[str, str], ...]) -> bool:
    """Whether a chat template reads content in parts, found by a trial.

    Args:
        template: source text for jinja.
        special_tokens: names and texts.
    """
    chat = [{"role": "user", "content": [{"type": "text", "text": _PROBE}]}]
    variables = {"tools": None, "documents": None, "add_generation_prompt": False}
    try:
        text = render_template(template, {**dict(special_tokens), **variables, "messages": chat})
    except TokenizerError:
        return False
    # A template that expects text may print the list as Python does.
    return _PROBE in text and f"'{_PROBE}'" not in text


def joined(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose content is one text, its parts joined by line breaks.

    Raises:
        TokenizerError: a part is not text.
    """
    content = message.get("content")
    if not isinstance(content, list):
        return dict(message)
    return {**message, "content": "\n".join(_text(part) for part in content)}


def _text(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
    text = part.get("text") if isinstance(part, Mapping) else None
    if kind in _TEXT_KINDS and isinstance(text, str):
        return text
    raise TokenizerError(
        f"the model's chat template takes only text, and a turn has a part of type {kind!r}"[:300]
    )
