"""Which tokens end a generation: what a model's files say, and the ends of turns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.gguf.reader import is_gguf, open_gguf
from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.errors import TokenizerError
from phi3quant.model.config import Phi3Config
from phi3quant.source.tokenizer import END_OF_TURN, Tokenizer

END_OF_TEXT = "<|endoftext|>"


def stop_tokens(path: Path, config: Phi3Config, tokenizer: Tokenizer) -> frozenset[int]:
    """Any of these ends a generation.

    config.json and generation_config.json may name the end of a text alone, so that a chat would
    never stop; ends of turns count whatever they say.

    Args:
        path: a model's folder or GGUF file.
        config: its configuration.
        tokenizer: its own.

    Raises:
        TokenizerError: an id is none.
    """
    if is_gguf(path):
        fields = open_gguf(path).model.fields
        stated = [
            number
            for role in ("eos", "eot")
            for number in token_ids(fields, f"tokenizer.ggml.{role}_token_id")
        ]
    else:
        settings = read_json_if_there(path / "generation_config.json", raises=TokenizerError)
        stated = [*token_ids(settings, "eos_token_id"), *token_ids(config.raw, "eos_token_id")]
    stated += known_tokens(tokenizer, *END_OF_TURN, END_OF_TEXT)
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
