"""Configuration of a Phi-3-family model, read from any dialect of config.json."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from phi3quant.errors import ConfigError
from phi3quant.model.dialects import DIALECTS, PHI3, ROPE_SECTIONS, as_phi3

_REQUIRED_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
# The files of April 2024 have "su"; transformers treats "yarn" in a Phi-3 config as LongRoPE too.
_LONGROPE_NAMES = ("longrope", "su", "yarn")
# Far above any model of the family; it stops absurd allocations before they are made.
_MAX_SIZE = 1 << 24
# Loops over the layers run before weights are checked; the deepest published models have 126.
_MAX_LAYERS = 1024
# Formats store windows as 32-bit integers and other numbers as FP32.
_MAX_WINDOW = (1 << 31) - 1
# Characters of a value that a message quotes.
_SHOWN = 80
_MIN_FLOAT, _MAX_FLOAT = 2.0**-126, 2.0**127


@dataclass(frozen=True)
class LongRope:
    """Parameters of LongRoPE (Ding et al., "LongRoPE", 2024).

    Attributes:
        short_factor: divisors of the inverse frequencies, one per rotated pair, for sequences of
            up to ``original_max_position_embeddings`` tokens.
        long_factor: the same for longer sequences.
        attention_factor: factor of cos and sin, for short and long sequences.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    attention_factor: float


@dataclass(frozen=True)
class Phi3Config:
    """Parameters of the computation of a Phi-3 model.

    Attributes:
        raw: config.json with the keys of ``phi3``; see dialects.as_phi3.
        stored_type: model_type in config.json.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    original_max_position_embeddings: int
    rope_theta: float
    rotary_dim: int
    long_rope: LongRope | None
    sliding_window: int | None
    rms_norm_eps: float
    tie_word_embeddings: bool
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    stored_type: str = field(default=PHI3, repr=False, compare=False)

    def untied(self) -> "Phi3Config":
        """The configuration of the same model with a head of its own."""
        raw = {**self.raw, "tie_word_embeddings": False}
        return replace(self, tie_word_embeddings=False, raw=raw)

    @property
    def query_rows(self) -> int:
        """Rows of qkv_proj that compute queries; also the width of o_proj's input."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_rows(self) -> int:
        """Rows of qkv_proj that compute keys; the same number compute values."""
        return self.num_key_value_heads * self.head_dim

    @property
    def queries_per_key_value(self) -> int:
        """Query heads that share one key-value head: 1 is MHA, more is GQA."""
        return self.num_attention_heads // self.num_key_value_heads


def parse_config(raw: Mapping[str, Any]) -> Phi3Config:
    """Interpret the content of a config.json; missing keys get the family's defaults.

    A missing ``num_key_value_heads`` equals ``num_attention_heads`` (MHA), as in transformers.

    Raises:
        ConfigError: another architecture, a missing size, or sizes that contradict one another.
    """
    stored_type = raw.get("model_type")
    if not isinstance(stored_type, str) or stored_type not in DIALECTS:
        raise ConfigError(
            f"model_type is {shown(stored_type)}, not 'phi3'; phi3quant handles models of the "
            f"Phi-3 architecture only ({', '.join(DIALECTS)})"
        )
    raw = as_phi3(raw)
    sizes = {key: _size(raw, key) for key in _REQUIRED_SIZES}
    if sizes["num_hidden_layers"] > _MAX_LAYERS:
        raise ConfigError(
            f"num_hidden_layers is {sizes['num_hidden_layers']}; at most {_MAX_LAYERS} are "
            "supported"
        )
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    kv_heads = _size(raw, "num_key_value_heads", default=heads)
    head_dim = _size(raw, "head_dim", default=hidden // heads)
    if "head_dim" not in raw and hidden % heads:
        raise ConfigError(f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
    if heads % kv_heads:
        raise ConfigError(
            f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
        )
    if raw.get("hidden_act", "silu") not in ("silu", "swish"):
        raise ConfigError(f"hidden_act is {shown(raw['hidden_act'])}; Phi-3 models use 'silu'")
    if not raw.get("is_causal", True):
        raise ConfigError(
            f"is_causal is {shown(raw['is_causal'])}; tokens of Phi-3 models attend only to "
            "earlier ones"
        )
    for key in ("attention_bias", "mlp_bias", "lm_head_bias"):
        if raw.get(key):
            raise ConfigError(f"{key} is true; models of the Phi-3 architecture have no biases")

    rope = _rope_section(raw)
    theta = _number(rope, raw, "rope_theta", default=10000.0)
    partial = _number(rope, raw, "partial_rotary_factor", default=1.0)
    rotary_dim = int(head_dim * partial)
    if not 0 < partial <= 1 or rotary_dim < 2 or rotary_dim % 2:
        raise ConfigError(
            f"partial_rotary_factor {partial} of head size {head_dim} rotates {rotary_dim} values; "
            "their number must be even and from 2 to the head size"
        )
    max_positions = _size(raw, "max_position_embeddings", default=4096)
    # As in transformers, where the default of the top-level key overrides the key in the section.
    original_key = "original_max_position_embeddings"
    section = raw if original_key not in raw or raw[original_key] is not None else rope
    default = 4096 if "short_factor" in rope else min(4096, max_positions)
    original = _size(section, original_key, default=default)
    eps = _number(raw, raw, "rms_norm_eps", default=1e-5)
    return Phi3Config(
        **sizes,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=max_positions,
        original_max_position_embeddings=original,
        rope_theta=theta,
        rotary_dim=rotary_dim,
        long_rope=_long_rope(rope, rotary_dim, max_positions, original),
        sliding_window=_window(raw),
        rms_norm_eps=eps,
        tie_word_embeddings=_flag(raw, "tie_word_embeddings"),
        raw=raw,
        stored_type=stored_type,
    )


def _window(raw: Mapping[str, Any]) -> int | None:
    window = raw.get("sliding_window")
    if window is None or (type(window) is int and 0 < window <= _MAX_WINDOW):
        return window
    raise ConfigError(
        f"sliding_window is {shown(window)}; it must be null or an integer from 1 to {_MAX_WINDOW}"
    )


def _flag(raw: Mapping[str, Any], key: str) -> bool:
    value = raw.get(key)
    if not isinstance(value, bool | None):
        raise ConfigError(f"{key} is {shown(value)}; it must be true or false")
    return bool(value)


def _rope_section(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """``rope_scaling``, or else ``rope_parameters`` (transformers 5), or nothing.

    transformers prefers the older key if a file has both.
    """
    for key in ROPE_SECTIONS:
        section = raw.get(key)
        if section is None:
            continue
        if not isinstance(section, Mapping):
            raise ConfigError(f"{key} is {shown(section)}; it must be null or an object")
        if section:
            return section
    return {}


def _long_rope(
    rope: Mapping[str, Any], rotary_dim: int, max_positions: int, original: int
) -> LongRope | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind not in _LONGROPE_NAMES:
        raise ConfigError(
            f"rope scaling of type {shown(kind)} is not used by Phi-3; expected 'longrope'"
        )
    factors = {}
    for key in ("short_factor", "long_factor"):
        values = rope.get(key)
        if not isinstance(values, list) or len(values) != rotary_dim // 2:
            actual = f"{len(values)} values" if isinstance(values, list) else type(values).__name__
            raise ConfigError(
                f"rope {key} must be a list of {rotary_dim // 2} numbers, but is {actual}"
            )
        if not all(map(_is_positive, values)):
            raise ConfigError(f"rope {key} must contain only positive numbers that FP32 can hold")
        factors[key] = tuple(float(value) for value in values)
    scale = _number(rope, {}, "factor", default=max_positions / original)
    # LongRoPE's attention factor as computed in transformers' modeling_rope_utils.
    computed = 1.0
    if scale > 1.0 and rope.get("attention_factor") is None:
        if original == 1:
            raise ConfigError("original_max_position_embeddings is 1; LongRoPE needs 2 or more")
        computed = math.sqrt(1 + math.log(scale) / math.log(original))
    attention = _number(rope, {}, "attention_factor", default=computed)
    return LongRope(factors["short_factor"], factors["long_factor"], attention)


def _size(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key)
    if value is None:
        value = default
    if value is None:
        raise ConfigError(f"the key {key} is missing")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _MAX_SIZE:
        raise ConfigError(
            f"{key} is {shown(value)}; it must be an integer from 1 to {_MAX_SIZE - 1}"
        )
    return value


def _number(
    section: Mapping[str, Any], raw: Mapping[str, Any], key: str, *, default: float
) -> float:
    value = section.get(key, raw.get(key))
    if value is None:
        return default
    if not _is_positive(value):
        raise ConfigError(
            f"{key} is {shown(value)}; it must be a positive number that FP32 can hold"
        )
    return float(value)


def _is_positive(value: object) -> bool:
    """Whether a value is a positive number in the range of FP32."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and _MIN_FLOAT <= value <= _MAX_FLOAT
    )


def shown(value: object) -> str:
    """``repr`` of a value, shortened for messages."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
