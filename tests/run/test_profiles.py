"""Profiles of phones: types in the files, refusals and notes."""

import logging
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from gguf import GGUFReader

from converters import FORMATS
from converters.gguf.sizes import limit_notes, tensor_types
from phi3quant.cli.main import main
from phi3quant.errors import SchemeError
from phi3quant.estimating.estimate import Plan, estimate
from phi3quant.estimating.members import describe, member_config
from phi3quant.run.pipeline import quantize
from phi3quant.run.presets import profiled
from phi3quant.run.profiles import PROFILES
from phi3quant.run.recipe import Recipe
from tests.models import VARIANTS, make_model

GPU = pytest.mark.parametrize("name", ["adreno", "hexagon"])


def types(folder: Path) -> Counter[str]:
    (file,) = folder.glob("*.gguf")
    return Counter(tensor.tensor_type.name for tensor in GGUFReader(file).tensors)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_a_recipe_for_one_format(name: str) -> None:
    recipe = profiled(name)
    assert recipe.formats == (PROFILES[name].format,)
    assert set(recipe.formats) <= FORMATS.keys()
    assert recipe.open_formats()[0].name == PROFILES[name].format


@GPU
@pytest.mark.parametrize("variant", ["gqa", "tied"])
def test_a_gpu_gets_q4_0_throughout(name: str, variant: str, tmp_path: Path) -> None:
    make_model(tmp_path / "model", **VARIANTS[variant])
    words = ["rtn", str(tmp_path / "model"), "--profile", name, "--no-verify"]
    result = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "rtn")])
    assert result.exit_code == 0, result.output
    assert set(types(tmp_path / "rtn")) == {"Q4_0", "F32"}
    words = ["export", "gguf", str(tmp_path / "model"), "--profile", name, "--no-verify"]
    result = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert types(tmp_path / "out") == types(tmp_path / "rtn")


def test_an_arm_cpu_gets_a_finer_head(tmp_path: Path) -> None:
    make_model(tmp_path / "model", hidden_size=256)
    words = ["rtn", str(tmp_path / "model"), "--profile", "arm-cpu", "--no-verify"]
    result = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "rtn")])
    assert result.exit_code == 0, result.output
    assert types(tmp_path / "rtn")["Q6_K"] == 1


def test_a_type_within_the_limits_may_be_chosen(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    words = ["rtn", str(tmp_path / "model"), "--profile", "adreno", "--no-verify"]
    words += ["--tensor-type", "^output=q8_0", "-o", str(tmp_path / "rtn")]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert types(tmp_path / "rtn")["Q8_0"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--profile", "adreno", "--tensor-type", "ffn_down=q6_k"], "allows only Q4_0, Q8_0"),
        (["--profile", "hexagon", "--gguf-type", "q4_k_m"], "profile hexagon allows only"),
        (["--profile", "adreno", "--preset", "small"], "pass one of them"),
        (["--profile", "adreno", "--export", "onnx"], "require gguf as the only format"),
        (["--profile", "phone"], "there is no profile 'phone'"),
    ],
)
def test_what_a_phone_cannot_run_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    make_model(tmp_path / "model", hidden_size=256, intermediate_size=256)
    output = tmp_path / "out"
    result = CliRunner().invoke(main, ["rtn", str(tmp_path / "model"), "-o", str(output), *words])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not output.exists()


def test_a_profile_excludes_a_target_size(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    recipe = Recipe(formats=("gguf",), target_bpw=5, profile="adreno")
    with pytest.raises(SchemeError, match="profile adreno sets the types itself"):
        quantize(tmp_path / "model", tmp_path / "out", recipe)
    with pytest.raises(SchemeError, match="there is no profile 'a'"):
        Recipe(profile="a")


def test_a_session_of_an_npu_holds_phi_3_mini() -> None:
    kind = PROFILES["hexagon"].file_type(None, ())
    assert limit_notes(kind, member_config("phi-3-mini-4k")) == []
    (note,) = limit_notes(kind, member_config("phi-3-medium-4k"))
    assert "GGML_HEXAGON_DEVICES=4" in note
    assert {size.name for size, _ in tensor_types(kind, member_config("phi-4-mini")).values()} == {
        "Q4_0",
        "F32",
    }


def test_an_exceeded_session_is_noted_by_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from dataclasses import replace

    profile = PROFILES["hexagon"]
    assert profile.limits is not None
    small = replace(profile, limits=replace(profile.limits, session_bytes=10_000))
    monkeypatch.setitem(PROFILES, "hexagon", small)
    make_model(tmp_path / "model")
    with caplog.at_level(logging.WARNING, "phi3quant"):
        quantize(tmp_path / "model", tmp_path / "out", profiled("hexagon"))
    assert any("exceed the" in record.getMessage() for record in caplog.records)


def test_an_estimate_has_the_types_and_the_notes_of_a_profile() -> None:
    plan = Plan(profile="hexagon")
    estimated = estimate(describe("phi-3-medium-4k"), plan, [])
    assert {tensor.type for tensor in estimated.chosen.tensors} == {"Q4_0", "F32"}
    assert any("NPU session" in warning for warning in estimated.warnings)
    result = CliRunner().invoke(main, ["estimate", "phi-3-mini-4k", "--profile", "ort-cpu"])
    assert result.exit_code == 0
    assert "ONNX int4 sym g32" in result.output
