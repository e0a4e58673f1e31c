"""Files for onnxruntime-genai next to a graph: genai_config.json and the tokenizer's files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.companions import carry_along, write_config
from converters.format import Source
from converters.onnx.file import GENAI_CONFIG
from converters.onnx.graph import (
    IDS,
    LOGITS,
    MASK,
    PAST_KEY,
    PAST_VALUE,
    PRESENT_KEY,
    PRESENT_VALUE,
)
from converters.stop_tokens import END_OF_TEXT, known_tokens, token_ids
from phi3quant.disk.output import write_json
from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.errors import TokenizerError
from phi3quant.model.config import Phi3Config
from phi3quant.source.tokenizer import (
    END_OF_TURN,
    Tokenizer,
    load_tokenizer,
    require_tokenizer_json,
)

# Tokens that the runtime allocates its cache for: 1.6 GB for Phi-3-mini in FP32.
_MAX_LENGTH = 2048


@dataclass(frozen=True)
class GenerationIds:
    """Token ids that a runtime requires.

    Attributes:
        begin: token put before a text; None if the model has none.
        stops: tokens that end a generation; at least one.
        pad: token that fills up the shorter texts of a batch.
    """

    begin: int | None
    stops: tuple[int, ...]
    pad: int


def generation_ids(
    folder: Path, config: Phi3Config, tokenizer: Tokenizer | None = None
) -> GenerationIds:
    """Read the ids from generation_config.json and config.json, and add ends of turns.

    Both files may list only the end of a text, so that a chat would never stop.

    Args:
        folder: folder of the model.
        config: configuration of the model.
        tokenizer: tokenizer of the model; None to read it from the folder.

    Raises:
        TokenizerError: there is no tokenizer.json, an id is invalid, or no token ends a text.
    """
    require_tokenizer_json(folder, "onnxruntime-genai")
    tokenizer = tokenizer or load_tokenizer(folder)
    settings = read_json_if_there(folder / "generation_config.json", raises=TokenizerError)
    listed = [
        *token_ids(settings, "eos_token_id"),
        *token_ids(config.raw, "eos_token_id"),
        *known_tokens(tokenizer, *END_OF_TURN, END_OF_TEXT),
    ]
    stops = tuple(number for number in dict.fromkeys(listed) if number < config.vocab_size)
    if not stops:
        raise TokenizerError(
            f"{folder} has no token that ends a text, so a generation would never stop; set "
            "eos_token_id in generation_config.json or config.json"
        )
    begin = [*token_ids(settings, "bos_token_id"), *token_ids(config.raw, "bos_token_id")]
    pad = [*token_ids(settings, "pad_token_id"), *token_ids(config.raw, "pad_token_id"), stops[0]]
    if begin and begin[0] >= config.vocab_size:
        raise TokenizerError(
            f"{folder}: bos_token_id is {begin[0]}, but the model's embedding has "
            f"{config.vocab_size} rows"
        )
    # Tokens added only for padding often have no row; any other token can replace them.
    fills = next(number for number in pad if number < config.vocab_size)
    return GenerationIds(begin[0] if begin else None, stops, fills)


def genai_config(config: Phi3Config, ids: GenerationIds, file: str) -> dict[str, Any]:
    """Contents of genai_config.json; the runtime refuses unknown keys.

    Args:
        config: configuration of the model.
        ids: special tokens of the model.
        file: name of the graph's file.
    """
    model: dict[str, Any] = {
        "type": "phi3",
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "eos_token_id": list(ids.stops),
        "pad_token_id": ids.pad,
        "decoder": {
            "filename": file,
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "head_size": config.head_dim,
            "hidden_size": config.hidden_size,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "num_hidden_layers": config.num_hidden_layers,
            "inputs": {
                "input_ids": IDS,
                "attention_mask": MASK,
                "past_key_names": PAST_KEY,
                "past_value_names": PAST_VALUE,
            },
            "outputs": {
                "logits": LOGITS,
                "present_key_names": PRESENT_KEY,
                "present_value_names": PRESENT_VALUE,
            },
        },
    }
    if ids.begin is not None:
        model["bos_token_id"] = ids.begin
    search = {
        "do_sample": False,
        "max_length": min(_MAX_LENGTH, config.max_position_embeddings),
        "past_present_share_buffer": True,
    }
    return {"model": model, "search": search}


def write_companions(folder: Path, source: Source, settings: Mapping[str, Any]) -> None:
    """Write all files next to the graph and its weights.

    Args:
        folder: destination.
        source: model whose configuration and tokenizer are copied.
        settings: contents from genai_config.
    """
    write_config(folder, source.config)
    carry_along(source.folder, folder)
    write_json(folder / GENAI_CONFIG, settings)
    write_json(folder / "tokenizer_config.json", _tokenizer_config(source))


def _tokenizer_config(source: Source) -> dict[str, Any]:
    """The source's tokenizer_config.json with a usable length and the chat template."""
    settings = read_json_if_there(source.folder / "tokenizer_config.json", raises=TokenizerError)
    length = settings.get("model_max_length")
    longest = source.config.max_position_embeddings
    # transformers writes 10**30 for an unknown length, which runtimes can't read.
    if not isinstance(length, int) or not 0 < length <= 1 << 30:
        length = longest
    template = source.tokenizer.chat_template
    return {
        **settings,
        "model_max_length": length,
        **({} if template is None else {"chat_template": template}),
    }
