import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.gguf.type_policy import FILE_TYPES, file_type
from converters.onnx.options import OnnxOptions
from converters.onnx.sizes import nbytes as onnx_bytes
from phi3quant.errors import ConfigError, InputError, ModelNotFoundError, SchemeError
from phi3quant.estimating.artifact import gguf, onnx, packed
from phi3quant.estimating.devices import (
    Fit,
    choose_devices,
    custom_device,
    known_devices,
)
from phi3quant.estimating.estimate import Plan, estimate
from phi3quant.estimating.members import describe, family
from phi3quant.estimating.memory import (
    KV_TYPES,
    check_context,
    kv_bytes,
    largest_context,
    run_memory,
    tokens_per_second,
)
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import QuantScheme

MIB, GB = 1 << 20, 10**9
SYM32 = QuantScheme(4, 32)
MINI = describe("phi-3-mini-4k")


# The family


@pytest.mark.parametrize(
    ("name", "parameters", "kv"),
    [
        ("phi-3-mini-4k", 3_821_079_552, 393_216),
        ("phi-3.5-mini", 3_821_079_552, 393_216),
        ("microsoft/Phi-3-mini-128k-instruct", 3_821_079_552, 393_216),
        ("phi-3-medium", 13_960_238_080, 204_800),
        ("Phi-4-mini-instruct", 3_836_021_760, 131_072),
    ],
)
def test_members_have_their_published_parameters_and_cache(
    name: str, parameters: int, kv: int
) -> None:
    model = describe(name)
    assert model.parameters == parameters
    assert kv_bytes(model.config, "f16", 1) == kv


def test_a_cache_of_4096_tokens_as_published() -> None:
    sizes = {kind: kv_bytes(MINI.config, kind, 4096) / MIB for kind in ("f16", "q8_0", "q4_0")}
    assert sizes == {"f16": 1536, "q8_0": 816, "q4_0": 432}
    assert kv_bytes(describe("phi-3-mini-128k").config, "f16", 131072) == 48 << 30


def test_people_are_told_of_mha_where_they_expect_gqa() -> None:
    assert any("32 key-value heads (MHA)" in note for note in MINI.warnings)
    assert not any("MHA" in note for note in describe("phi-3-medium").warnings)
    assert any("131,072 tokens" in note for note in describe("phi-3.5-mini").warnings)
    assert any("last 2,047" in note for note in MINI.warnings)


@pytest.mark.parametrize("name", ["phi-4", "phi-4-reasoning", "phi-4-reasoning-plus"])
def test_phi_4_has_14_billion_weights_and_no_window(name: str) -> None:
    member = describe(f"microsoft/{name}")
    assert member.parameters == 14_659_507_200
    assert member.config.sliding_window is None
    assert member.config.rope_theta > 10_000


def test_a_tied_model_is_smaller_with_one_matrix_for_both_ends() -> None:
    config = describe("phi-4-mini").config

    def size(embedding: str | None, head: str | None) -> int:
        return onnx_bytes(config, MatrixSchemes(SYM32), OnnxOptions(embedding=embedding, head=head))

    shared = size(None, None)
    assert shared == size("int8", "int8") == size("int4", None)
    assert size(None, "int4") == size("int4", "int4") < shared < size("int4", "int8")


@pytest.mark.parametrize("name", [*family(), None])
@pytest.mark.parametrize("kind", [*FILE_TYPES, "onnx", "compressed-tensors", "awq-gemm", "gptq"])
def test_every_member_is_estimated_in_every_format(name: str | None, kind: str) -> None:
    plan = Plan(gguf_type=kind) if kind in FILE_TYPES else Plan(format=kind)
    found = estimate(describe(name), plan, known_devices())
    json.dumps(found.as_json(tensors=True))
    assert found.chosen.nbytes < found.chosen.file_bytes
    assert found.chosen.read_per_token <= found.chosen.nbytes
    assert found.cost.memory[0] < found.cost.memory[1]


# Memory


def test_a_token_reads_one_row_of_the_embedding_and_all_of_a_tied_one() -> None:
    kind = file_type("q4_0")
    mini = gguf(MINI, kind)
    (table,) = (tensor for tensor in mini.tensors if tensor.name == "token_embd.weight")
    assert mini.read_per_token == mini.nbytes - table.nbytes + table.nbytes // 32064
    tied = gguf(describe("phi-4-mini"), kind)
    assert tied.read_per_token == tied.nbytes


def test_a_window_bounds_what_is_read_but_not_what_is_kept() -> None:
    found = run_memory(MINI.config, gguf(MINI, file_type("q4_0")), 4096, "f16", OnnxOptions())
    assert found.kv_in_window == found.kv * 2047 // 4096
    assert found.dirty[0] < found.needed - found.weights < found.dirty[1]


def test_q4_0_of_mini_at_2048_tokens_is_about_3_gib() -> None:
    found = run_memory(MINI.config, gguf(MINI, file_type("q4_0")), 2048, "f16", OnnxOptions())
    assert found.needed / 2**30 == pytest.approx(3.1, rel=0.05)
    assert choose_devices(["iphone-14"])[0].verdict(found.needed) in (
        Fit.FITS,
        Fit.ENTITLEMENT,
    )


@given(limit=st.integers(2 * GB, 6 * GB), kv_type=st.sampled_from(["f16", "q8_0", "q4_0"]))
def test_the_largest_context_fits_and_the_next_one_does_not(limit: int, kv_type: str) -> None:
    artifact, options = gguf(MINI, file_type("q4_0")), OnnxOptions()
    longest = largest_context(MINI.config, artifact, limit, kv_type, options)

    def needed(tokens: int) -> int:
        return run_memory(MINI.config, artifact, tokens, kv_type, options).needed

    assert longest == 0 or needed(longest) <= limit
    assert longest == 4096 or needed(longest + 1) > limit


def test_no_decoding_is_faster_than_memory() -> None:
    artifact = gguf(MINI, file_type("q4_0"))
    memory = run_memory(MINI.config, artifact, 1024, "f16", OnnxOptions())
    read = artifact.read_per_token + 1024 * 393_216
    assert tokens_per_second(artifact, memory, 51.2e9) == pytest.approx(51.2e9 / read)


def test_onnx_keeps_its_cache_in_the_type_it_computes_with() -> None:
    options = OnnxOptions(io="fp16")
    artifact = onnx(MINI, MatrixSchemes(SYM32), options)
    found = run_memory(MINI.config, artifact, 1024, "q4_0", options)
    assert (found.kv_type, found.kv) == ("f16", 1024 * 393_216)


# Devices


def test_devices_have_sources_and_sense() -> None:
    devices = known_devices()
    assert len({device.name for device in devices}) == len(devices) > 10
    for device in devices:
        assert device.source
        assert device.basis
        assert device.usable < device.memory
        assert device.entitled is None or device.usable < device.entitled < device.memory
        assert device.bandwidth is not None
        assert 1e10 < device.bandwidth < 1e12


def test_limits_of_a_6_gb_iphone() -> None:
    (phone,) = choose_devices(["iPhone 14"])
    assert phone.usable / GB == pytest.approx(3.1, rel=0.05)
    assert phone.entitled is not None
    assert phone.entitled / GB == pytest.approx(4.2, rel=0.05)
    sizes = (3.0 * GB, 4.0 * GB, 5.0 * GB)
    verdicts = [phone.verdict(int(size)) for size in sizes]
    assert verdicts == [Fit.FITS, Fit.ENTITLEMENT, Fit.NO]


# Bad input


def test_an_unknown_device_or_member_gets_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean iphone-15-pro"):
        choose_devices(["iphone15pro"])
    with pytest.raises(ModelNotFoundError, match=r"did you mean phi-3\.5-mini"):
        describe("phi-35-mini")
    with pytest.raises(ModelNotFoundError, match="did you mean phi-4-reasoning-plus"):
        describe("phi-4-reasoning-pls")
    with pytest.raises(ModelNotFoundError, match="known are phi-3-mini-4k, phi-3-mini, "):
        describe("xyzzy")


def test_an_impossible_context_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most 4,096"):
        check_context(MINI.config, 5000)
    with pytest.raises(ConfigError, match="impossible"):
        estimate(MINI, Plan(contexts=(1024, 131072)), [])


def test_a_config_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    raw = {**family()["phi-3-mini-4k"]["config"], "num_key_value_heads": 5}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match="not a multiple of num_key_value_heads 5"):
        describe(str(tmp_path))
    other = tmp_path / "other.json"
    other.write_text("[]")
    with pytest.raises(ConfigError, match="Expected `object`"):
        describe(str(other))


def test_what_a_format_cannot_hold_is_refused_or_left_out() -> None:
    with pytest.raises(SchemeError, match="holds 4 bits"):
        packed(MINI, MatrixSchemes(QuantScheme(8, 32)), "awq-gemm")
    rows = QuantScheme(4, None)
    found = estimate(MINI, Plan(scheme=rows, format="compressed-tensors"), [])
    refused = ["mlx", *(f"onnx {number}" for number in range(4))]
    assert [name for name, _ in found.refused] == refused


def test_a_cache_whose_blocks_do_not_fit_the_heads_is_refused() -> None:
    tiny = describe(None)
    assert tiny.config.head_dim % KV_TYPES["q4_0"][0] == 0
    narrow = {**family()["phi-3-mini-4k"]["config"], "num_attention_heads": 64}
    narrow["num_key_value_heads"] = 64
    from phi3quant.model.config import parse_config

    with pytest.raises(SchemeError, match="blocks of 32 values, and heads have 48"):
        kv_bytes(parse_config(narrow), "q4_0", 1)


def test_a_given_memory_is_all_usable() -> None:
    device = custom_device(4 << 30, None)
    assert device.verdict(4 << 30) is Fit.FITS
    (found,) = estimate(MINI, Plan(contexts=(1024,)), [device]).verdicts
    assert found.ceiling is None
