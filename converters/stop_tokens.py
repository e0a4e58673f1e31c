"""Tokens that end a generation: those that a model's files name, and the ends of turns."""

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
    """Ids any of which ends a generation.

    config.json and generation_config.json may name the end of a text alone, so that a chat would
    never stop; ends of turns count whatever they say.

    Raises:
        TokenizerError: an id is none.
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
    """The ids under a key: none, one or several.

    Raises:
        TokenizerError: it holds something else.
    """
    value = settings.get(key)
    values = value if isinstance(value, list) else [] if value is None else [value]
    for number in values:
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise TokenizerError(f"{key} is {value!r}; it must be a token id or a list of them")
    return values


def known_tokens(tokenizer: Tokenizer, *tokens: str) -> list[int]:
    """Ids of those tokens that the tokenizer knows as one."""
    encoded = [tokenizer.encode(token) for token in tokens]
    return [ids[0] for ids in encoded if len(ids) == 1]
