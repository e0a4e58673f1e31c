"""Tokens that end a generation: those listed in a model's files, and ends of turns."""

from collections.abc import Mapping
from typing import Any

from converters.gguf.reader import GgufCheckpoint
from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.errors import TokenizerError
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredModel
from phi3quant.source.tokenizer import END_OF_TURN, Tokenizer

END_OF_TEXT = "<|endoftext|>"


def stop_tokens(opened: OpenedModel[StoredModel]) -> frozenset[int]:
    """Token ids that end a generation.

    Some config.json and generation_config.json list only the end of a text, so that a chat would
    never stop. Ends of turns are therefore always included.

    Raises:
        TokenizerError: a listed value is not a token id.
    """
    config = opened.config
    if isinstance(opened.model, GgufCheckpoint):
        fields = opened.model.model.fields
        stated = [
            number
            for role in ("eos", "eot")
            for number in token_ids(fields, f"tokenizer.ggml.{role}_token_id")
        ]
    else:
        settings = read_json_if_there(opened.path / "generation_config.json", raises=TokenizerError)
        stated = [*token_ids(settings, "eos_token_id"), *token_ids(config.raw, "eos_token_id")]
    stated += known_tokens(opened.tokenizer, *END_OF_TURN, END_OF_TEXT)
    return frozenset(number for number in stated if number < config.vocab_size)


def token_ids(settings: Mapping[str, Any], key: str) -> list[int]:
    """Token ids under a key, where one id or a list may stand.

    Raises:
        TokenizerError: the value is neither.
    """
    value = settings.get(key)
    values = value if isinstance(value, list) else [] if value is None else [value]
    for number in values:
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise TokenizerError(f"{key} is {value!r}; it must be a token id or a list of them")
    return values


def known_tokens(tokenizer: Tokenizer, *tokens: str) -> list[int]:
    """Ids of those ``tokens`` that the tokenizer encodes as a single id."""
    encoded = [tokenizer.encode(token) for token in tokens]
    return [ids[0] for ids in encoded if len(ids) == 1]
