from typing import Any

import pytest
from transformers import Phi3Config as ReferenceConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from phi3quant.errors import ConfigError
from phi3quant.model.config import parse_config
from phi3quant.model.rope import rope_tables
from tests.models import long_rope

MINI: dict[str, Any] = {
    "model_type": "phi3",
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
LONG: dict[str, Any] = {
    "short_factor": [1.0 + 0.01 * i for i in range(48)],
    "long_factor": [1.0 + 0.5 * i for i in range(48)],
}


def test_missing_key_value_heads_mean_mha() -> None:
    config = parse_config(MINI)
    assert config.num_key_value_heads == 32
    assert config.queries_per_key_value == 1


def test_missing_optional_keys_get_the_defaults_of_the_family() -> None:
    config = parse_config(MINI)
    assert config.rope_theta == 10000.0
    assert config.rms_norm_eps == 1e-5
    assert config.sliding_window is None
    assert not config.tie_word_embeddings
    assert config.rotary_dim == config.head_dim == 96


@pytest.mark.parametrize("name", ["longrope", "su", "yarn"])
@pytest.mark.parametrize("key", ["type", "rope_type"])
@pytest.mark.parametrize("section", ["rope_scaling", "rope_parameters"])
def test_every_dialect_of_longrope_reads_the_same(name: str, key: str, section: str) -> None:
    config = parse_config({**MINI, "max_position_embeddings": 131072, section: {key: name, **LONG}})
    assert config.long_rope is not None
    assert config.long_rope.short_factor == tuple(LONG["short_factor"])
    assert config.long_rope.attention_factor == pytest.approx(1.1902, abs=1e-4)


def test_theta_and_partial_rotation_are_read_from_rope_parameters() -> None:
    rope = {"rope_type": "default", "rope_theta": 250000.0, "partial_rotary_factor": 0.75}
    config = parse_config({**MINI, "num_attention_heads": 24, "rope_parameters": rope})
    assert config.rope_theta == 250000.0
    assert (config.head_dim, config.rotary_dim) == (128, 96)


@pytest.mark.parametrize("length", [40, 41])
def test_longrope_frequencies_and_magnitude_equal_transformers(length: int) -> None:
    raw = {
        **MINI,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "original_max_position_embeddings": 40,
        "rope_scaling": long_rope(8),
    }
    reference = ReferenceConfig(**raw)
    frequencies, magnitude = ROPE_INIT_FUNCTIONS["longrope"](reference, "cpu", seq_len=length)
    tables = rope_tables(parse_config(raw), length)
    assert float(tables.cos[0, 0]) == pytest.approx(magnitude)
    expected = (frequencies * (length - 1)).sin() * magnitude
    assert tables.sin[-1, :8].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma"}, "model_type is 'gemma'"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"vocab_size": -3}, "vocab_size is -3"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"intermediate_size": 10**12}, "intermediate_size"),
        ({"num_key_value_heads": 5}, "not a multiple of num_key_value_heads 5"),
        ({"hidden_size": 3073}, "not a multiple of num_attention_heads"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": True}, "no biases"),
        ({"sliding_window": "all"}, "sliding_window is 'all'"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ({"rope_scaling": [1]}, "must be null or an object"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "type 'linear'"),
        (
            {"rope_scaling": {"type": "su", **LONG, "long_factor": [1.0]}},
            "must be a list of 48 numbers",
        ),
        ({"rope_scaling": {"type": "su", **LONG, "long_factor": ["x"] * 48}}, "positive numbers"),
        ({"partial_rotary_factor": 0.01}, "rotates 0 values"),
        ({"num_hidden_layers": 16_777_215}, "num_hidden_layers is 16777215; at most 1024 are"),
        ({"rope_theta": 10**400}, r"rope_theta is 1000.*\.\.\.; it must be a positive"),
        ({"rope_theta": 1e308}, "rope_theta is 1e.308"),
        ({"rms_norm_eps": 1e-320}, "rms_norm_eps is"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"sliding_window": 2**70}, "sliding_window is 1180591620717411303424"),
        ({"sliding_window": True}, "sliding_window is True"),
        ({"sliding_window": 255.0}, r"sliding_window is 255\.0"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'"),
        ({"model_type": "x" * 10**6}, r"model_type is 'x{79}\.\.\., not"),
        ({"rope_scaling": {"type": "su", **LONG, "factor": "two"}}, "factor is 'two'"),
        ({"rope_scaling": {"type": "su", **LONG, "factor": -1}}, "factor is -1"),
        ({"rope_scaling": {"type": "su", **LONG, "attention_factor": []}}, "attention_factor is"),
        ({"rope_scaling": {"type": "su", **LONG, "long_factor": [10**400] * 48}}, "positive"),
        (
            {"rope_scaling": {"type": "su", **LONG}, "original_max_position_embeddings": 1},
            "original_max_position_embeddings is 1",
        ),
    ],
)
def test_a_bad_config_is_refused_with_its_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({**MINI, **changes})
