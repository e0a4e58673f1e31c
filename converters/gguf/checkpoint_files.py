"""Files of a checkpoint's folder, from the metadata of a GGUF file: config, tokenizer, stop ids."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import processors

from converters.gguf.reader import GgufCheckpoint
from converters.gguf.tokenizer import build_fast, build_tokenizer
from phi3quant.disk.output import write_json
from phi3quant.errors import TokenizerError
from phi3quant.model.config import Phi3Config
from phi3quant.source.fast_tokenizer import library_errors
from phi3quant.source.tokenizer import Tokenizer


def write_checkpoint_files(model: GgufCheckpoint, folder: Path) -> None:
    """Write config.json, generation_config.json, tokenizer.json and tokenizer_config.json.

    The tokenizer splits text as the original one, where llama.cpp only approximates it.

    Raises:
        TokenizerError: the metadata has no tokenizer, or a broken one.
    """
    fields = model.model.fields
    tokenizer = build_tokenizer(fields, str(model.path))
    fast = build_fast(fields, str(model.path), as_intended=True)
    fast.post_processor = _added_tokens(tokenizer, fast, fields, model.path)
    with library_errors(f"{model.path} has a tokenizer that can't be stored"):
        fast.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
        **tokenizer.special_tokens,
    }
    if tokenizer.chat_template is not None:
        settings["chat_template"] = tokenizer.chat_template
    write_json(folder / "tokenizer_config.json", settings)
    ids = _special_ids(fields, model.config.vocab_size)
    write_json(folder / "generation_config.json", ids)
    one = {key: value[0] if isinstance(value, list) else value for key, value in ids.items()}
    write_json(folder / "config.json", {**config_json(model.config), **one})


def _added_tokens(
    tokenizer: Tokenizer, fast: FastTokenizer, fields: Mapping[str, Any], path: Path
) -> processors.TemplateProcessing | None:
    """Step that adds the tokens which llama.cpp puts before and after a text; None for none."""
    # llama.cpp's default for SentencePiece; see its llama_vocab.
    begins = fields.get("tokenizer.ggml.model") == "llama"
    wanted = {
        role: fields.get(f"tokenizer.ggml.add_{role}_token", begins and role == "bos")
        for role in ("bos", "eos")
    }
    names = {role: tokenizer.special_tokens.get(f"{role}_token") for role in wanted}
    for role, name in names.items():
        if wanted[role] and name is None:
            raise TokenizerError(f"{path} has add_{role}_token, but no {role}_token_id")
    parts = [names["bos"] if wanted["bos"] else None, "$A", names["eos"] if wanted["eos"] else None]
    template = [part for part in parts if part is not None]
    if template == ["$A"]:
        return None
    special = [(name, fast.token_to_id(name)) for name in template if name != "$A"]
    return processors.TemplateProcessing(template, special_tokens=special)


def config_json(config: Phi3Config) -> dict[str, Any]:
    """Contents of config.json, from which parse_config makes the same configuration."""
    rope = None
    if config.long_rope is not None:
        rope = {
            "type": "longrope",
            "short_factor": list(config.long_rope.short_factor),
            "long_factor": list(config.long_rope.long_factor),
            "attention_factor": config.long_rope.attention_factor,
        }
    return {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "original_max_position_embeddings": config.original_max_position_embeddings,
        "rope_theta": config.rope_theta,
        "partial_rotary_factor": _partial(config),
        "rope_scaling": rope,
        "sliding_window": config.sliding_window,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def _partial(config: Phi3Config) -> float:
    """Share of rotated values, of which the product with head_dim isn't below a whole number."""
    share = config.rotary_dim / config.head_dim
    return share if int(config.head_dim * share) == config.rotary_dim else math.nextafter(share, 1)


def _special_ids(fields: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Ids of special tokens for generation_config.json; ends of a turn end a generation too."""

    def number(role: str) -> int | None:
        value = fields.get(f"tokenizer.ggml.{role}_token_id")
        return value if type(value) is int and 0 <= value < rows else None

    stops = [value for role in ("eos", "eot") if (value := number(role)) is not None]
    ids = {
        "bos_token_id": number("bos"),
        "eos_token_id": list(dict.fromkeys(stops)) or None,
        "pad_token_id": number("padding"),
    }
    return {key: value for key, value in ids.items() if value is not None}
