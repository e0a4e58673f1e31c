"""Settings of a LoRA adapter, from PEFT's adapter_config.json."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from phi3quant.errors import AdapterError
from phi3quant.model.config import shown

Value = TypeVar("Value")

# Keys that choose modules, describe training or are read below.
_FREE = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "megatron_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_dora",
        "use_rslora",
    }
)
_OFF: tuple[Any, ...] = (None, False, "none", [], {})
_HARMLESS_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Ways of initializing LoRA that leave the base model as it is."""

_MAX_RANK = 1 << 16
_MAX_ALPHA = 2.0**127


@dataclass(frozen=True)
class AdapterSettings:
    """Settings that decide how the matrices of an adapter are merged.

    Attributes:
        rank: rank of the matrices, unless ``ranks`` has another one.
        alpha: numerator of the scaling, unless ``alphas`` has another one.
        ranks, alphas: exceptions, by a pattern of module names.
        rank_stabilized: whether the scaling is divided by the root of the rank (rsLoRA).
        dora: whether the adapter has norms of rows (DoRA).
        ties_head: whether the head is trained together with the embedding.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    rank_stabilized: bool = False
    dora: bool = False
    ties_head: bool = False

    def rank_of(self, module: str) -> int:
        """Rank of a module's matrices."""
        return _by_pattern(self.ranks, module, self.rank)

    def scaling(self, module: str) -> float:
        """Factor of a module's product: alpha/r, or alpha/sqrt(r) for rsLoRA."""
        rank = self.rank_of(module)
        alpha = _by_pattern(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def adapter_settings(raw: Mapping[str, Any], where: str) -> AdapterSettings:
    """Read an adapter's settings.

    Args:
        raw: content of adapter_config.json, or an object with at least ``r`` and ``lora_alpha``.
        where: name of the file, for messages.

    Raises:
        AdapterError: a setting isn't supported or has a wrong type.
    """
    kind = raw.get("peft_type", "LORA")
    if kind != "LORA":
        raise AdapterError(
            f"{where}: peft_type is {shown(kind)}; only LoRA and its variants rsLoRA and DoRA can "
            "be merged here. Merge it with PEFT's merge_and_unload"
        )
    for key, value in raw.items():
        if key not in _FREE and value not in _OFF:
            raise AdapterError(
                f"{where}: {shown(key)} is {shown(value)}, which isn't supported; merge the "
                "adapter with PEFT's merge_and_unload"
            )
    start = raw.get("init_lora_weights")
    if start not in _HARMLESS_STARTS:
        raise AdapterError(
            f"{where}: init_lora_weights is {shown(start)}, which changes the base model too; "
            "convert the adapter with PEFT (save_pretrained with "
            "path_initial_model_for_weight_conversion) or merge it with merge_and_unload"
        )
    return AdapterSettings(
        _rank(raw.get("r"), f"{where}: r"),
        _number(raw.get("lora_alpha"), f"{where}: lora_alpha"),
        _pattern(raw.get("rank_pattern"), f"{where}: rank_pattern", _rank),
        _pattern(raw.get("alpha_pattern"), f"{where}: alpha_pattern", _number),
        _flag(raw, "use_rslora", where),
        _flag(raw, "use_dora", where),
        _flag(raw, "ensure_weight_tying", where),
    )


def _by_pattern(values: Mapping[str, Value], module: str, default: Value) -> Value:
    """Value of the first pattern that matches the end of a module's name, as in PEFT."""
    for pattern, value in values.items():
        # Patterns come from untrusted files, so they are compared as plain names.
        if module == pattern.removeprefix("^") or module.endswith(f".{pattern}"):
            return value
    return default


def _pattern(raw: Any, where: str, read: Callable[[Any, str], Value]) -> Mapping[str, Value]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise AdapterError(f"{where} is {shown(raw)}; it must be an object")
    for pattern in raw:
        if not re.fullmatch(r"\^?[\w.]+", pattern):
            raise AdapterError(
                f"{where} has the pattern {shown(pattern)}; only names of modules are supported"
            )
    return {pattern: read(value, f"{where}, {pattern}") for pattern, value in raw.items()}


def _rank(value: Any, where: str) -> int:
    if type(value) is int and 0 < value <= _MAX_RANK:
        return value
    raise AdapterError(f"{where} is {shown(value)}; it must be an integer from 1 to {_MAX_RANK}")


def _number(value: Any, where: str) -> float:
    # NaN fails the comparison, and integers are compared before they are converted.
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_ALPHA:
        return float(value)
    raise AdapterError(f"{where} is {shown(value)}; it must be a number that FP32 can hold")


def _flag(raw: Mapping[str, Any], key: str, where: str) -> bool:
    value = raw.get(key)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise AdapterError(f"{where}: {key} is {shown(value)}; it must be true or false")
