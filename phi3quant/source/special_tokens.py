"""Special tokens of a model by their names in chat templates, by transformers' rules."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.errors import TokenizerError

_STANDARD = frozenset(
    {
        "bos_token",
        "eos_token",
        "unk_token",
        "sep_token",
        "pad_token",
        "cls_token",
        "mask_token",
    }
)
# Booleans in older files: how the tokenizer encodes, not tokens.
_SWITCHES = ("add_bos_token", "add_eos_token")
_EXTRA = "extra_special_tokens"
_GPT2 = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
_CLASS_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "GPT2Tokenizer": _GPT2,
    "GPT2TokenizerFast": _GPT2,
}
"""Tokens of a ``tokenizer_class`` that a tokenizer_config.json without them still has."""


def special_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by name, such as ``bos_token``.

    Args:
        folder: folder of a model.
        settings: content of its tokenizer_config.json.

    Raises:
        TokenizerError: special_tokens_map.json can't be read.
    """
    named: dict[str, Any] = {
        **_CLASS_DEFAULTS.get(str(settings.get("tokenizer_class")), {}),
        **_token_keys(settings),
        **_as_mapping(settings.get(_EXTRA)),
    }
    # Older versions of transformers kept the tokens in a file of their own, which is read only next
    # to settings that don't list the added tokens.
    if "added_tokens_decoder" not in settings:
        older = read_json_if_there(folder / "special_tokens_map.json", raises=TokenizerError)
        named.update(_token_keys(older))
        named.update(_as_mapping(older.get(_EXTRA)))
    texts = {name: _text(value) for name, value in named.items()}
    return {name: text for name, text in texts.items() if text}


def _token_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Standard tokens, and those that a model names itself, such as ``image_token``."""
    return {
        name: value
        for name, value in settings.items()
        if name in _STANDARD
        or (name.endswith("_token") and name not in _SWITCHES and _text(value) is not None)
    }


def _as_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None
