"""Models to estimate: members of the family by name, or any config.json."""

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from phi3quant.errors import ModelNotFoundError
from phi3quant.model.architecture import tensor_shapes
from phi3quant.model.config import Phi3Config, parse_config
from phi3quant.model.config_file import read_config, read_config_file
from phi3quant.source.bundled import BUNDLED, bundled_folder

_EXPECTED_GQA = 8
"""Key-value heads of Phi-3-mini according to some third-party model cards, wrongly."""
SHAPE = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
)
"""Sizes that a fine-tune doesn't change; it may add rows to the vocabulary."""


@dataclass(frozen=True)
class Described:
    """Facts of a model that an estimate needs.

    Attributes:
        name: name for display.
        config: configuration of the model. For named members all LongRoPE factors are 1, since only
            their number matters here.
        folder: folder with the tokenizer; None for named members.
    """

    name: str
    config: Phi3Config
    folder: Path | None

    @property
    def parameters(self) -> int:
        """Weights of the model, a tied head counted once."""
        return sum(math.prod(shape) for shape in tensor_shapes(self.config).values())

    @property
    def warnings(self) -> list[str]:
        """Warnings about common mistakes with this model's memory."""
        config = self.config
        notes = []
        if config.queries_per_key_value == 1 and config.num_attention_heads > _EXPECTED_GQA:
            notes.append(
                f"its config says {config.num_key_value_heads} key-value heads (MHA), not "
                f"{_EXPECTED_GQA} (GQA) as often stated of this family: its KV cache is "
                f"{config.num_key_value_heads / _EXPECTED_GQA:g} times as large as that"
            )
        longest = config.max_position_embeddings
        if longest > config.original_max_position_embeddings:
            notes.append(
                f"it can take {longest:,} tokens: a runtime that makes room for all of them at "
                "once, as some do by default, needs the memory of that context; set the context"
            )
        window = config.sliding_window
        if window is not None and window < longest:
            notes.append(
                f"it sees the last {window:,} tokens alone, but llama.cpp keeps the cache of all"
            )
        return notes


def family() -> dict[str, Mapping[str, Any]]:
    """Named members of the family, each with ``config`` and ``aliases``."""
    file = resources.files("phi3quant") / "assets" / "estimates" / "family.json"
    members: dict[str, Mapping[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return members


def describe(model: str | None) -> Described:
    """Look up a model.

    Args:
        model: name of a member, path of a config.json or of a folder with one, or None for the
            bundled model.

    Raises:
        ModelNotFoundError: there is no such model; the message suggests the nearest member.
        ConfigError: config.json is not Phi-3 or contradicts itself.
    """
    if model is None or (model == BUNDLED and not Path(model).exists()):
        folder = bundled_folder()
        return Described(BUNDLED, read_config(folder), folder)
    path = Path(model)
    if path.is_dir():
        return Described(path.resolve().name, read_config(path), path)
    if path.is_file():
        return Described(str(path), read_config_file(path), path.parent)
    members = family()
    names = {alias: name for name, entry in members.items() for alias in (name, *entry["aliases"])}
    asked = model.lower().rsplit("/", 1)[-1].removesuffix("-instruct")
    if asked in names:
        name = names[asked]
        return Described(name, _member(members[name]["config"]), None)
    near = difflib.get_close_matches(asked, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ModelNotFoundError(
        f"{model} is not a folder, a config.json or a member of the family{hint} "
        f"(known are {', '.join(names)})"
    )


def member_config(name: str) -> Phi3Config:
    """Configuration of a member by its name in ``family``."""
    return _member(family()[name]["config"])


def members_of_shape(config: Phi3Config) -> list[str]:
    """Members with the sizes of SHAPE, narrowed to those with the same context if there are any.

    Examples:
        >>> members_of_shape(describe("phi-3-medium-4k").config)
        ['phi-3-medium-4k']
    """
    configs = {name: member_config(name) for name in family()}
    alike = [
        name
        for name, member in configs.items()
        if all(getattr(member, key) == getattr(config, key) for key in SHAPE)
    ]
    context = config.max_position_embeddings
    return [name for name in alike if configs[name].max_position_embeddings == context] or alike


def member_within(text: str) -> str | None:
    """The member whose name or alias is part of a text, such as a hub id; the longest counts.

    Examples:
        >>> member_within("me/Phi3-mini-128k-instruct-tuned"), member_within("Phi-3.5-mini")
        ('phi-3-mini-128k', 'phi-3.5-mini')
        >>> member_within("phi3-tiny")
    """
    plain = re.sub(r"phi-?(?=\d)", "phi-", re.sub(r"[\s_]+", "-", text.lower()))
    names = {alias: name for name, entry in family().items() for alias in (name, *entry["aliases"])}
    inside = [
        alias
        for alias in names
        if re.search(rf"(?<![a-z0-9]){re.escape(alias)}(?![a-z0-9])", plain)
    ]
    return names[max(inside, key=len)] if inside else None


def _member(raw: Mapping[str, Any]) -> Phi3Config:
    """Configuration of a member, with ones for the factors of LongRoPE."""
    if raw.get("rope_scaling") != "longrope":
        return parse_config(raw)
    head_dim = raw["hidden_size"] // raw["num_attention_heads"]
    pairs = int(head_dim * raw.get("partial_rotary_factor", 1.0)) // 2
    ones = {key: [1.0] * pairs for key in ("short_factor", "long_factor")}
    return parse_config({**raw, "rope_scaling": {"type": "longrope", **ones}})
