"""Facts that must not change: chat template, special and stop tokens, architecture."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from converters.gguf.reader import GgufCheckpoint
from converters.onnx.file import GENAI_CONFIG
from converters.onnx.reader import OnnxModel
from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.errors import TokenizerError
from phi3quant.model.config import Phi3Config
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredModel
from phi3quant.source.tokenizer import TRIAL_CHATS, Message, Tokenizer

CHAT = "chat template"
TEMPLATE_TEXT = "template text"
CHAT_TOKENS = "chat tokens"
SPECIAL_TOKENS = "special tokens"
STOP_TOKENS = "stop tokens"
ARCHITECTURE = "architecture"

_NAMED = ("bos_token", "eos_token")
"""Special tokens that are named in every format."""

_DEFAULT, _TOOL_USE = "default", "tool_use"
_FAILED = " (SHA-256 of the template: "


def facts(opened: OpenedModel[StoredModel]) -> dict[str, Any]:
    """Exact facts of an artifact as JSON values, by name.

    Raises:
        TokenizerError: the tokenizer can't be read.
    """
    tokenizer = opened.tokenizer
    chats = [_rendered(tokenizer, chat) for chat in TRIAL_CHATS]
    return {
        CHAT: chats,
        TEMPLATE_TEXT: {
            name: _sha256(text)
            for name, text in (
                (_DEFAULT, tokenizer.chat_template),
                (_TOOL_USE, tokenizer.tool_template),
            )
            if text is not None
        },
        CHAT_TOKENS: [tokenizer.encode(chat) for chat in chats],
        SPECIAL_TOKENS: {
            name: tokenizer.encode(tokenizer.special_tokens[name])
            for name in _NAMED
            if name in tokenizer.special_tokens
        },
        STOP_TOKENS: _stop_tokens(opened),
        ARCHITECTURE: _architecture(opened.config),
    }


def kind(model: StoredModel) -> str:
    """Kind of model: ``gguf``, ``onnx`` or ``folder``, which record stop tokens differently."""
    if isinstance(model, OnnxModel):
        return "onnx"
    return "gguf" if isinstance(model, GgufCheckpoint) else "folder"


def changes(
    expected: Mapping[str, Any], present: Mapping[str, Any], *, same_kind: bool
) -> dict[str, list[str]]:
    """Differences between the facts of two artifacts, by name, one line each.

    The text of a template belongs to the fact CHAT: the trial chats don't reach every branch.

    Args:
        expected: facts of the first artifact; those of older baselines have no TEMPLATE_TEXT.
        present: facts of the second artifact.
        same_kind: whether both are of the same kind. Otherwise stop tokens and templates for tools
            aren't compared: a GGUF file names two stop tokens and has one template.
    """
    lines = {
        name: differences(expected.get(name), value, name)
        for name, value in present.items()
        if name != TEMPLATE_TEXT and (same_kind or name != STOP_TOKENS)
    }
    before, after = expected.get(TEMPLATE_TEXT), present[TEMPLATE_TEXT]
    if isinstance(before, Mapping):
        lines[CHAT] += [
            f"the text of the template {name} differs (SHA-256 {_start(after.get(name))}, was "
            f"{_start(before.get(name))})"
            for name in ((_DEFAULT, _TOOL_USE) if same_kind else (_DEFAULT,))
            if before.get(name) != after.get(name)
        ]
    return lines


def unrendered(chats: Sequence[Any]) -> int:
    """Number of trial chats in CHAT that the template couldn't render."""
    return sum(_FAILED in str(chat) for chat in chats)


def _start(digest: Any) -> str:
    return "of no template" if digest is None else str(digest)[:12]


def differences(expected: Any, found: Any, name: str = "") -> list[str]:
    """List the places at which two JSON values differ, one line each.

    Args:
        expected: JSON value.
        found: JSON value to compare with it.
        name: name of the value, for the lines.
    """
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        return [
            line
            for key in sorted({*expected, *found})
            for line in differences(
                expected.get(key), found.get(key), f"{name}.{key}" if name else str(key)
            )
        ]
    return [] if expected == found else [f"{name} is {_short(found)}, was {_short(expected)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _rendered(tokenizer: Tokenizer, chat: Sequence[Message]) -> str:
    """Render a chat; if the template fails, return the error and the template's hash.

    Two templates may fail with the same error, such as an unsupported tag, but their hashes differ.
    """
    try:
        return tokenizer.render_chat(chat, add_generation_prompt=True)
    except TokenizerError as error:
        return f"{error}{_FAILED}{_sha256(tokenizer.chat_template or '')})"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _stop_tokens(opened: OpenedModel[StoredModel]) -> list[int]:
    if isinstance(opened.model, GgufCheckpoint):
        fields = opened.model.model.fields
        stops = [fields.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot")]
    else:
        # onnxruntime-genai uses its own settings, transformers those of the other files.
        settings = read_json_if_there(opened.path / GENAI_CONFIG).get("model")
        stated = settings.get("eos_token_id") if isinstance(settings, Mapping) else None
        if stated is None:
            stated = read_json_if_there(opened.path / "generation_config.json").get("eos_token_id")
        stated = opened.config.raw.get("eos_token_id") if stated is None else stated
        stops = stated if isinstance(stated, list) else [stated]
    return sorted({number for number in stops if isinstance(number, int)})


def _architecture(config: Phi3Config) -> dict[str, Any]:
    described = asdict(config)
    for key in ("raw", "stored_type"):
        del described[key]
    return {key: _rounded(value) for key, value in described.items()}


def _rounded(value: Any) -> Any:
    """Round floats to 6 digits, since some formats store them as FP32, which has 7."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
