"""Exports for a fixed length of context."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader

from converters import open_weights
from converters.gguf.type_policy import file_type
from phi3quant.errors import ConfigError
from phi3quant.model.config import parse_config
from phi3quant.model.config_file import read_config
from phi3quant.model.fixed_context import fixed_context
from phi3quant.model.rope import rope_tables
from phi3quant.run.export import export_gguf, export_onnx
from tests.models import VARIANTS, make_model

ORIGINAL = 40
SIDES = pytest.mark.parametrize(("tokens", "side"), [(40, "short"), (30, "short"), (41, "long")])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("longrope")
    make_model(folder, **VARIANTS["longrope"])
    return folder


@SIDES
def test_both_sides_are_that_of_the_context(tokens: int, side: str, model: Path) -> None:
    config = read_config(model)
    fixed = fixed_context(config, tokens)
    before, after = config.long_rope, fixed.long_rope
    assert before is not None
    assert after is not None
    chosen = getattr(before, f"{side}_factor")
    assert (after.short_factor, after.long_factor) == (chosen, chosen)
    assert after.attention_factor == before.attention_factor
    expected, tables = rope_tables(config, tokens), rope_tables(fixed, tokens)
    assert torch.equal(tables.cos, expected.cos)
    # config.json of an ONNX folder is made from the raw content.
    assert parse_config(fixed.raw) == fixed


@SIDES
def test_a_gguf_file_has_one_set_of_factors(
    tokens: int, side: str, model: Path, tmp_path: Path
) -> None:
    export_gguf(model, tmp_path / "out", kind=file_type("f16"), context=tokens)
    (file,) = (tmp_path / "out").glob("*.gguf")
    reader = GGUFReader(file)
    factors = {t.name: t.data.tolist() for t in reader.tensors if "rope" in t.name}
    config = read_config(model)
    assert config.long_rope is not None
    expected = torch.tensor(getattr(config.long_rope, f"{side}_factor")).tolist()
    # llama.cpp takes either by the context that it is started with.
    assert list(factors.values()) == [expected, expected]
    assert reader.fields["phi3.context_length"].contents() == tokens
    again = open_weights(file).config
    assert again.long_rope is not None
    assert list(again.long_rope.short_factor) == list(again.long_rope.long_factor) == expected
    assert again.max_position_embeddings == tokens
    manifest = json.loads((tmp_path / "out" / "phi3quant.json").read_text())
    assert manifest["recipe"]["context"] == tokens


@SIDES
def test_an_onnx_folder_has_one_table(tokens: int, side: str, model: Path, tmp_path: Path) -> None:
    del side
    export_onnx(model, tmp_path / "out", context=tokens)
    from onnx import load

    graph = load(tmp_path / "out" / "model.onnx", load_external_data=False).graph
    assert not [node for node in graph.node if node.op_type == "If"]
    (table,) = [t for t in graph.initializer if t.name.startswith("cos_cache")]
    assert table.dims[0] == tokens
    settings = json.loads((tmp_path / "out" / "genai_config.json").read_text())
    assert settings["model"]["context_length"] == tokens
    assert read_config(tmp_path / "out") == fixed_context(read_config(model), tokens)


def test_a_model_without_longrope_gets_a_shorter_context(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    config = read_config(tmp_path / "model")
    fixed = fixed_context(config, 100)
    assert fixed.max_position_embeddings == 100
    assert fixed == replace(
        config, max_position_embeddings=100, original_max_position_embeddings=100
    )
    assert parse_config(fixed.raw) == fixed


def test_a_longer_context_than_the_models_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a context of 257 tokens is impossible"):
        export_gguf(model, tmp_path / "out", context=257)
