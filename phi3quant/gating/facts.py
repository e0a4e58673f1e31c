"""What must hold exactly, whatever the weights: template, special and stop tokens, architecture."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from converters.gguf.reader import GgufCheckpoint
from converters.onnx.genai import CONFIG_FILE as GENAI_CONFIG
from converters.onnx.reader import OnnxModel
from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.errors import TokenizerError
from phi3quant.model.config import Phi3Config
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredModel
from phi3quant.source.tokenizer import TRIAL_CHATS, Message, Tokenizer

CHAT = "chat template"
CHAT_TOKENS = "chat tokens"
SPECIAL_TOKENS = "special tokens"
STOP_TOKENS = "stop tokens"
ARCHITECTURE = "architecture"

_NAMED = ("bos_token", "eos_token")
"""Special tokens that every format names."""


def facts(opened: OpenedModel[StoredModel]) -> dict[str, Any]:
    """The exact facts of an artifact, as plain values by their name.

    Raises:
        TokenizerError: its tokenizer can't be read.
    """
    tokenizer = opened.tokenizer
    chats = [_rendered(tokenizer, chat) for chat in TRIAL_CHATS]
    return {
        CHAT: chats,
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
    """``gguf``, ``onnx`` or ``folder``: each records stop tokens in its own way."""
    if isinstance(model, OnnxModel):
        return "onnx"
    return "gguf" if isinstance(model, GgufCheckpoint) else "folder"


def differences(expected: Any, found: Any, name: str = "") -> list[str]:
    """Where two plain values differ, a line for each place.

    Args:
        expected: what JSON holds.
        found: likewise.
        name: of the value, for the lines.
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
    """The chat, or the template's error with its hash.

    Two templates may fail alike, such as by a tag that isn't supported; then their text decides.
    """
    try:
        return tokenizer.render_chat(chat, add_generation_prompt=True)
    except TokenizerError as error:
        text = tokenizer.chat_template or ""
        return f"{error} (SHA-256 of the template: {hashlib.sha256(text.encode()).hexdigest()})"


def _stop_tokens(opened: OpenedModel[StoredModel]) -> list[int]:
    if isinstance(opened.model, GgufCheckpoint):
        fields = opened.model.model.fields
        found = [fields.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot")]
    else:
        # onnxruntime-genai stops by its own settings, transformers by these.
        settings = read_json_if_there(opened.path / GENAI_CONFIG).get("model")
        stated = settings.get("eos_token_id") if isinstance(settings, Mapping) else None
        if stated is None:
            stated = read_json_if_there(opened.path / "generation_config.json").get("eos_token_id")
        stated = opened.config.raw.get("eos_token_id") if stated is None else stated
        found = stated if isinstance(stated, list) else [stated]
    return sorted({number for number in found if isinstance(number, int)})


def _architecture(config: Phi3Config) -> dict[str, Any]:
    described = asdict(config)
    del described["raw"]
    return {key: _rounded(value) for key, value in described.items()}


def _rounded(value: Any) -> Any:
    """FP32, in which some formats keep numbers, holds 7 digits of them; 6 are compared."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
