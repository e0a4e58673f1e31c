import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from converters.gguf.type_policy import file_type
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.gating.comparison import compare
from phi3quant.run.export import export_gguf
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.faults import one_layer_corrupted, with_codes
from tests.models import make_model

SHORT = EvaluationText(max_tokens=1024)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "out"
    quantize("phi3-tiny", out, Recipe("rtn"))
    return out


@pytest.fixture(scope="module")
def gguf(packed: Path) -> Path:
    """The same codes with embedding and head as they were."""
    types = ("token_embd=f16", "^output=f16")
    export_gguf(packed, packed.parent / "gguf", kind=file_type("q4_0", types))
    (file,) = (packed.parent / "gguf").glob("*.gguf")
    return file


def test_a_model_and_its_copy_differ_in_nothing(packed: Path) -> None:
    found = compare(packed, packed, SHORT)
    assert (found.changed, found.changes) == ([], {})
    assert found.figures is not None
    assert found.figures[1]["ratio"] == 1
    assert found.figures[1]["kl_max"] == 0


def test_the_same_codes_in_two_formats_are_the_same_model(packed: Path, gguf: Path) -> None:
    found = compare(packed, gguf, SHORT)
    assert found.tensors == 27
    assert found.changed == []
    assert found.formats == ("compressed-tensors int4 sym g32", "GGUF Q4_0")
    assert "architecture" not in found.changes
    assert found.figures is not None
    assert found.figures[1]["kl_max"] == 0


def test_a_plain_checkpoint_beside_a_gguf_file_shows_what_rounding_costs(gguf: Path) -> None:
    found = compare("phi3-tiny", gguf, SHORT)
    assert len(found.changed) == 16  # four matrices in each of four blocks
    assert all(0.05 < (change.relative or 0) < 0.15 for change in found.changed)
    assert found.figures is not None
    assert found.figures[1]["ratio"] > 1
    assert len(found.worst) == 2
    assert found.changes["recipe"] == ["only phi3-tiny-Q4_0.gguf states it"]
    json.dumps(found.as_json(), allow_nan=False)


def test_the_tensor_that_changed_is_named_first(packed: Path, tmp_path: Path) -> None:
    bad = with_codes(packed, tmp_path / "bad", one_layer_corrupted)
    found = compare(packed, bad, scored=False)
    assert [change.name for change in found.changed] == ["model.layers.2.mlp.down_proj.weight"]
    assert found.unscored == "not asked for"


def test_recipe_template_and_architecture_are_compared(packed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    quantize("phi3-tiny", other, replace(Recipe("rtn"), formats=("awq-gemm",)))
    for name, key, value in (
        ("config.json", "rope_theta", 5.0),
        ("tokenizer_config.json", "chat_template", "{{ messages[0]['content'] }}"),
    ):
        settings = json.loads((other / name).read_text())
        (other / name).write_text(json.dumps({**settings, key: value}))
    found = compare(packed, other, scored=False)
    assert found.changes["architecture"] == ["architecture.rope_theta is 5.0, was 10000.0"]
    assert found.changes["recipe"] == ["formats is ['awq-gemm'], was ['compressed-tensors']"]
    assert "chat template" in found.changes


def test_models_with_other_tokenizers_are_compared_but_not_scored(
    packed: Path, tmp_path: Path
) -> None:
    make_model(tmp_path / "random")
    found = compare(packed, tmp_path / "random")
    assert not found.comparable
    assert found.figures is None
    assert "their tokenizers differ" in found.unscored
    assert any(change.relative is None for change in found.changed)


def test_models_of_other_depth_are_compared(
    checkpoint_folder: Callable[[str], Path], tmp_path: Path, prose: Path
) -> None:
    make_model(tmp_path / "deep", num_hidden_layers=3)
    found = compare(checkpoint_folder("gqa"), tmp_path / "deep", EvaluationText(prose, length=64))
    missing = [change.name for change in found.changed if change.relative is None]
    assert all(name.startswith("model.layers.2.") for name in missing)
    assert len(missing) == 6
    shutil.rmtree(tmp_path / "deep")
