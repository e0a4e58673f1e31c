"""Keys of config.json that mlx-lm reads otherwise than transformers."""

from collections.abc import Iterator, Mapping
from typing import Any

from phi3quant.model.config import Phi3Config
from phi3quant.model.dialects import ROPE_SECTIONS
from phi3quant.quant.matrix_schemes import MatrixSchemes

_LONGROPE = ("longrope", "su")
"""Names of LongRoPE in mlx-lm."""


def mlx_keys(config: Phi3Config) -> dict[str, Any]:
    """Keys to add, so that mlx-lm computes the same model.

    mlx-lm 0.32 knows neither ``rope_parameters`` (transformers 5) nor ``rope_type``, and its
    defaults differ.
    """
    values: Mapping[str, tuple[float, float | None]] = {
        "rms_norm_eps": (config.rms_norm_eps, None),
        "rope_theta": (config.rope_theta, 10000.0),
        "partial_rotary_factor": (config.rotary_dim / config.head_dim, 1.0),
        "max_position_embeddings": (config.max_position_embeddings, 131072),
        "original_max_position_embeddings": (config.original_max_position_embeddings, 4096),
    }
    added: dict[str, Any] = {
        key: value
        for key, (value, default) in values.items()
        if config.raw.get(key, default) != value
    }
    scaling = config.raw.get("rope_scaling")
    if config.long_rope is None:
        return added | ({"rope_scaling": None} if scaling else {})
    section: Mapping[str, Any] = next(
        config.raw[key] for key in ROPE_SECTIONS if config.raw.get(key)
    )
    if not scaling or section.get("type") not in _LONGROPE:
        added["rope_scaling"] = {**section, "rope_type": _LONGROPE[0], "type": _LONGROPE[0]}
    return added


def mlx_notes(config: Phi3Config, _schemes: MatrixSchemes) -> Iterator[str]:
    """Differences between mlx-lm 0.32 and the model that no key of config.json removes."""
    if config.long_rope is not None and config.long_rope.short_factor != (
        config.long_rope.long_factor
    ):
        yield (
            "mlx-lm applies LongRoPE's long factors to texts of any length; texts of up to "
            f"{config.original_max_position_embeddings} tokens come out otherwise than in "
            "transformers"
        )
    window = config.sliding_window
    if window is not None and window < config.max_position_embeddings:
        yield (
            f"mlx-lm has no sliding window for this model; texts of more than {window} tokens "
            "come out otherwise than in transformers"
        )
