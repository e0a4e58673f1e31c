"""Other model types whose text part is computed as ``phi3``, and their translation to it.

Fine-tuning tools save Phi-3 models as Llama or Mistral models, and the multimodal members of the
family contain a Phi-3 or Phi-4 text model.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from phi3quant.errors import ConfigError

PHI3 = "phi3"
_ORIGINAL, _PARTIAL = "original_max_position_embeddings", "partial_rotary_factor"
ROPE_SECTIONS = ("rope_scaling", "rope_parameters")
"""Sections of config.json about the rotation; the first that isn't empty counts."""

_TEXT_KEYS = frozenset(
    {
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "hidden_act",
        "is_causal",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "original_max_position_embeddings",
        "partial_rotary_factor",
        "rope_parameters",
        "rope_scaling",
        "sliding_window",
        "tie_word_embeddings",
        "attention_bias",
        "mlp_bias",
        "lm_head_bias",
        "attention_dropout",
        "embd_pdrop",
        "resid_pdrop",
        "initializer_range",
        "use_cache",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "quantization_config",
    }
)
"""Keys of a multimodal config.json that describe its text model."""


@dataclass(frozen=True)
class Dialect:
    """A model type that can be read as ``phi3``.

    Attributes:
        defaults: values that transformers assumes for missing keys, where they differ from those
            that it assumes for ``phi3``.
        keys: keys of config.json that describe the text model; None for all.
        outside: prefixes of tensors that don't belong to the text model, with their parts' names.
        adapters: keys of config.json that describe adapters inside the checkpoint, by the
            adapters' names.
        whole_heads: whether the model type always rotates whole heads, and has the original context
            in the rope section.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    keys: Collection[str] | None = None
    outside: Mapping[str, str] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)
    whole_heads: bool = False


_LLAMA: Mapping[str, Any] = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
}
_MISTRAL: Mapping[str, Any] = {
    **_LLAMA,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
}

DIALECTS: Mapping[str, Dialect] = {
    PHI3: Dialect(),
    "llama": Dialect(_LLAMA, whole_heads=True),
    "mistral": Dialect(_MISTRAL, whole_heads=True),
    "phi3_v": Dialect(keys=_TEXT_KEYS, outside={"model.vision_embed_tokens.": "vision tower"}),
    "phi4-siglip": Dialect(
        keys=_TEXT_KEYS,
        outside={"model.vision_tower.": "vision tower", "model.mm_projector.": "vision projector"},
    ),
    "phi4mm": Dialect(
        keys=_TEXT_KEYS,
        outside={"model.embed_tokens_extend.": "vision and audio towers"},
        adapters={"vision": "vision_lora", "speech": "speech_lora"},
    ),
    "phi4_multimodal": Dialect(
        {"num_key_value_heads": 8, "max_position_embeddings": 131072},
        keys=_TEXT_KEYS,
        outside={"model.embed_tokens_extend.": "vision and audio towers"},
    ),
}
"""Model types that can be read."""

# Keys of a Llama config.json without a meaning for phi3. transformers ignores the window there.
_LLAMA_ONLY = ("pretraining_tp", "sliding_window", "layer_types")


def as_phi3(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a config.json whose model_type is in DIALECTS to the keys and defaults of ``phi3``.

    Raises:
        ConfigError: the rotation is of a kind that ``phi3`` doesn't have.
    """
    kind = raw["model_type"]
    dialect = DIALECTS[kind]
    if kind == PHI3:
        return dict(raw)
    dropped = _LLAMA_ONLY if kind == "llama" else ()
    kept = {
        key: value
        for key, value in raw.items()
        if key not in dropped and (dialect.keys is None or key in dialect.keys)
    }
    translated = {**dialect.defaults, **kept}
    translated |= {"model_type": PHI3, "architectures": ["Phi3ForCausalLM"]}
    if kind == "mistral":
        translated = _with_one_window(translated)
    return _with_whole_heads(translated, kind) if dialect.whole_heads else translated


def _with_one_window(raw: dict[str, Any]) -> dict[str, Any]:
    """Apply ``layer_types``; a Mistral model with them is a Ministral model to transformers."""
    kept = {key: value for key, value in raw.items() if key != "layer_types"}
    types = raw.get("layer_types")
    layers = types if types and isinstance(types, list) else [types]
    if all(layer == "full_attention" for layer in layers):
        return kept | {"sliding_window": None}
    if all(layer in ("sliding_attention", None) for layer in layers):
        return kept
    raise ConfigError(
        f"layer_types is {str(types)[:80]}; Phi-3 models have the same attention in all layers"
    )


def _with_whole_heads(raw: dict[str, Any], kind: str) -> dict[str, Any]:
    """Put the original context where ``phi3`` has it, and drop partial rotation as transformers."""
    name = next((name for name in ROPE_SECTIONS if raw.get(name)), None)
    section = raw[name] if name else {}
    if not isinstance(section, Mapping):
        return raw
    rotation = section.get("rope_type", section.get("type", "default"))
    if rotation not in ("default", "longrope"):
        raise ConfigError(
            f"rope scaling of type {str(rotation)[:80]!r} isn't supported for model_type {kind!r}; "
            "Phi-3 models use 'longrope' or none"
        )
    original = raw.get(_ORIGINAL, section.get(_ORIGINAL)) or raw.get("max_position_embeddings")
    kept = {key: value for key, value in raw.items() if key != _PARTIAL} | {_ORIGINAL: original}
    if name:
        kept[name] = {key: value for key, value in section.items() if key != _PARTIAL}
    return kept
