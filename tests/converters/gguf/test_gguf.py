"""GGUF files as a whole: written, read back, read by the gguf library, and broken on purpose."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader

from converters import open_tokenizer, open_weights
from converters.gguf.reader import GgufCheckpoint, open_gguf
from converters.gguf.sizes import nbytes
from converters.gguf.type_policy import FILE_TYPES, file_type, linear_type
from converters.gguf.vocabulary import read_vocabulary
from phi3quant import EvaluationText, evaluate, inspect, verify
from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.model.architecture import LINEARS
from phi3quant.model.config import parse_config
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.calibration import Calibration
from phi3quant.run.export import export_gguf
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.source.locate import bundled_folder
from phi3quant.source.tokenizer import load_tokenizer
from tests.converters.gguf.exported import export
from tests.models import BASE, PROSE, VARIANTS, own_logits

IDS = torch.arange(60)[None]


@pytest.mark.parametrize("variant", VARIANTS)
def test_full_precision_survives(
    variant: str, checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = checkpoint_folder(variant)
    file = export(folder, tmp_path / "out", "f32")
    plain, again = open_weights(folder), open_weights(file)
    kept = [
        {**vars(model.config), "raw": None, "rms_norm_eps": None, "long_rope": None}
        for model in (plain, again)
    ]
    assert kept[0] == kept[1]
    with torch.inference_mode():
        assert torch.allclose(own_logits(again, IDS), own_logits(plain, IDS), atol=1e-4)


@pytest.mark.parametrize("kind", FILE_TYPES)
def test_every_type_writes_what_it_announces_and_scores(kind: str, tmp_path: Path) -> None:
    made = export_gguf("phi3-tiny", tmp_path / "out", kind=file_type(kind.lower()))
    scored = verify(made, EvaluationText(max_tokens=2048)).comparisons[1]
    assert scored.ratio == pytest.approx(1, abs=0.02)
    file = tmp_path / "out" / f"phi3-tiny-{kind}.gguf"
    config = open_weights(bundled_folder()).config
    size = nbytes(file_type(kind), config)
    assert open_gguf(file).weight_bytes == size
    assert size < file.stat().st_size < size + 300_000
    found = inspect(tmp_path / "out")
    assert found.format == f"GGUF {kind}"
    assert found.manifest["recipe"]["type"] == kind


@pytest.mark.parametrize("scheme", [QuantScheme(), QuantScheme(8, 32)], ids=str)
def test_codes_are_those_of_the_packed_folder(
    scheme: QuantScheme, checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    recipe = Recipe(
        "awq",
        scheme,
        ("compressed-tensors", "gguf"),
        Calibration(prose, samples=8, length=64),
    )
    made = quantize(checkpoint_folder("gqa"), tmp_path / "out", recipe)
    packed, direct = (open_weights(made.folders[name]) for name in recipe.formats)
    later = open_weights(export(made.folders["compressed-tensors"], tmp_path / "later"))
    for index in range(2):
        for name in LINEARS:
            assert torch.equal(packed.block(index)[name], direct.block(index)[name])
            assert torch.equal(packed.block(index)[name], later.block(index)[name])


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q6_K", "Q5_0"])
def test_awq_chooses_codes_for_the_files_own_types(kind: str, tmp_path: Path) -> None:
    calibration = Calibration(samples=16, length=256)
    recipe = Recipe("awq", formats=("gguf",), calibration=calibration, gguf_type=kind.lower())
    made = quantize("phi3-tiny", tmp_path / "awq", recipe)
    assert not any(block["fell_back_to_rtn"] for block in made.blocks)
    assert all(block["error_ratio"] < 1 for block in made.blocks)
    plain = export("phi3-tiny", tmp_path / "plain", kind)
    text = EvaluationText(max_tokens=4096)
    _, first, second = evaluate(["phi3-tiny", tmp_path / "awq", plain], text).comparisons
    assert float(first.kl.mean()) < float(second.kl.mean())
    sizes = [open_gguf(path).weight_bytes for path in (tmp_path / "awq", plain)]
    assert sizes[0] == sizes[1]
    manifest = json.loads((tmp_path / "awq" / "phi3quant.json").read_text())
    common = {"compensate": True, "tensor_types": [], "formats": ["gguf"]}
    assert manifest["recipe"] == {"method": "awq", "gguf_type": kind, **common}


def test_single_tensors_get_types_of_their_own(tmp_path: Path) -> None:
    changes = (r"blk\.[01]\.ffn_down=q8_0", "ffn_down=q5_0", "token_embd=f16")
    export_gguf("phi3-tiny", tmp_path / "out", kind=file_type("q4_0", changes))
    calibration = Calibration(samples=4, length=128)
    recipe = Recipe(
        "awq",
        formats=("gguf",),
        calibration=calibration,
        gguf_type="q4_0",
        tensor_types=changes,
    )
    quantize("phi3-tiny", tmp_path / "awq", recipe)
    for folder in ("out", "awq"):
        tensors = open_gguf(tmp_path / folder).model.tensors
        types = [tensors[f"blk.{index}.ffn_down.weight"].type.name for index in range(4)]
        assert types == ["Q8_0", "Q8_0", "Q5_0", "Q5_0"]
        assert tensors["token_embd.weight"].type.name == "F16"
        assert tensors["blk.0.attn_qkv.weight"].type.name == "Q4_0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("ffn_down", "is not PATTERN=TYPE"),
        ("ffn_down=q9", "is not PATTERN=TYPE"),
        ("blk.(=q8_0", "not a regular expression"),
        ("mlp=q8_0", "no tensor's name matches 'mlp'"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(change: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match=message):
        export_gguf("phi3-tiny", tmp_path / "out", kind=file_type("q4_0", [change]))
    assert not list(tmp_path.iterdir())


def test_gguf_types_go_with_gguf_alone(tmp_path: Path) -> None:
    recipe = Recipe("rtn", formats=("awq-gemm", "gguf"), gguf_type="q4_k_m")
    with pytest.raises(SchemeError, match="gguf as the only format"):
        quantize("phi3-tiny", tmp_path / "out", recipe)


def test_the_gguf_library_reads_the_metadata(tmp_path: Path) -> None:
    reader = GGUFReader(export("phi3-tiny", tmp_path / "out", "q4_0"))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = json.loads((bundled_folder() / "config.json").read_text())
    assert fields["general.architecture"] == "phi3"
    assert fields["general.type"] == "model"
    assert fields["phi3.block_count"] == config["num_hidden_layers"]
    assert fields["phi3.attention.head_count_kv"] == config["num_key_value_heads"]
    assert fields["phi3.attention.sliding_window"] == config["sliding_window"]
    assert fields["tokenizer.ggml.model"] == "llama"
    tokens = fields["tokenizer.ggml.tokens"]
    assert tokens[fields["tokenizer.ggml.eot_token_id"]] == "<|end|>"
    assert len(tokens) == config["vocab_size"]
    assert "<|end|>" in fields["tokenizer.chat_template"]
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["blk.0.attn_qkv.weight"] == "Q4_0"
    assert types["blk.0.attn_norm.weight"] == "F32"


def test_long_rope_factors_are_tensors(
    checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    reader = GGUFReader(export(checkpoint_folder("longrope"), tmp_path / "out", "f16"))
    factors = {tensor.name: tensor.data for tensor in reader.tensors if "rope" in tensor.name}
    assert sorted(factors) == ["rope_factors_long.weight", "rope_factors_short.weight"]
    assert factors["rope_factors_short.weight"].tolist() == pytest.approx(
        [1 + 0.1 * i for i in range(8)]
    )
    assert "phi3.rope.scaling.attn_factor" in reader.fields


def test_scores_are_the_sentencepiece_models_own() -> None:
    import sentencepiece

    folder = bundled_folder()
    pieces = sentencepiece.SentencePieceProcessor()
    pieces.load(str(folder / "tokenizer.model"))
    vocabulary = read_vocabulary(folder, 2048)
    assert vocabulary.scores is not None
    normal = [n for n in range(pieces.get_piece_size()) if vocabulary.types[n] == 1]
    first = min(n for n in normal if pieces.get_score(n) == 0 and not pieces.is_byte(n))
    for number in normal:
        if number >= first:
            assert vocabulary.scores[number] == pieces.get_score(number)


@pytest.mark.parametrize("source", ["phi3-tiny", "gqa"])
def test_the_tokenizer_can_be_rebuilt(
    source: str, checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = bundled_folder() if source == "phi3-tiny" else checkpoint_folder(source)
    own, again = load_tokenizer(folder), open_tokenizer(export(folder, tmp_path / "out", "q8_0"))
    assert own.digest == again.digest
    for text in (PROSE, "<|user|>\n Hi?<|end|>\n<|assistant|>\n", "Zürich 東京 🙂\t  x", ""):
        assert again.encode(text) == own.encode(text)
        assert again.decode(own.encode(text)) == own.decode(own.encode(text))
    turns = [{"role": "user", "content": "Where?"}]
    assert again.render_chat(turns) == own.render_chat(turns)


def test_a_gguf_file_is_scored_by_itself(tmp_path: Path) -> None:
    file = export("phi3-tiny", tmp_path / "out", "f16")
    text = EvaluationText("tiny", max_tokens=1024)
    (alone,) = evaluate([file], text).comparisons
    assert alone.candidate.perplexity == pytest.approx(
        evaluate(["phi3-tiny"], text).comparisons[0].candidate.perplexity, rel=1e-6
    )


def test_parts_hold_the_same_model(tmp_path: Path) -> None:
    whole = open_weights(export("phi3-tiny", tmp_path / "whole", "f16"))
    export_gguf("phi3-tiny", tmp_path / "parts", kind=file_type("f16"), split_bytes=2_000_000)
    files = sorted(path.name for path in (tmp_path / "parts").glob("*.gguf"))
    assert files[0] == f"phi3-tiny-F16-00001-of-{len(files):05}.gguf"
    assert len(files) > 2
    parts = open_weights(tmp_path / "parts")
    assert isinstance(parts, GgufCheckpoint)
    assert torch.equal(parts.block(3)["down_proj"], whole.block(3)["down_proj"])
    (tmp_path / "parts" / files[1]).unlink()
    with pytest.raises(CheckpointError, match=f"{files[1]} is missing"):
        open_weights(tmp_path / "parts")


def test_matrices_left_apart_are_joined(
    checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Other converters write q, k, v and gate, up as tensors of their own."""
    import gguf

    folder = checkpoint_folder("gqa")
    plain = open_weights(folder)
    reader = GGUFReader(export(folder, tmp_path / "out", "f32"))
    writer = gguf.GGUFWriter(tmp_path / "apart.gguf", "phi3")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kinds = [*field.types, None]
            writer.add_key_value(name, field.contents(), kinds[0], kinds[1])
    cuts = {"attn_qkv": {"attn_q": 64, "attn_k": 32, "attn_v": 32}}
    cuts["ffn_up"] = {"ffn_gate": 96, "ffn_up": 96}
    for tensor in reader.tensors:
        key = tensor.name.split(".")[-2]
        start = 0
        for part, rows in cuts.get(key, {key: len(tensor.data)}).items():
            name = tensor.name.replace(f"{key}.weight", f"{part}.weight")
            writer.add_tensor(name, tensor.data[start : start + rows].copy())
            start += rows
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    apart = open_weights(tmp_path / "apart.gguf")
    for key, value in plain.block(1).items():
        assert torch.equal(apart.block(1)[key], value)


def test_k_mixes_spend_bits_where_llama_cpp_does() -> None:
    config = parse_config({**BASE, "model_type": "phi3", "num_hidden_layers": 32})

    def types(kind: str, name: str) -> list[str]:
        chosen = FILE_TYPES[kind]
        return [linear_type(chosen, name, index, config, 3072).name for index in range(32)]

    more = [i for i in range(32) if i < 4 or i >= 28 or (i - 4) % 3 == 2]
    for name in ("qkv_proj", "down_proj"):
        found = types("Q4_K_M", name)
        assert [i for i in range(32) if found[i] == "Q6_K"] == more
    assert types("Q4_K_M", "o_proj") == ["Q4_K"] * 32
    assert types("Q4_K_S", "qkv_proj") == ["Q5_K"] * 4 + ["Q4_K"] * 28
    # Rows that are no whole number of superblocks take the legacy type of as many bits.
    narrow = linear_type(FILE_TYPES["Q4_K_M"], "o_proj", 9, config, 96)
    assert narrow.name == "Q5_0"


LAYERS = 32


def types(kind: str, name: str, *, calibrated: bool = True, **changes: int) -> list[str]:
    """Types of a linear in every block of a model whose rows hold 3072 weights."""
    raw = {**BASE, "model_type": "phi3", "num_hidden_layers": LAYERS, **changes}
    config, chosen = parse_config(raw), file_type(kind, calibrated=calibrated)
    return [linear_type(chosen, name, index, config, 3072).name for index in range(LAYERS)]


def test_3_bit_mixes_spend_bits_where_llama_cpp_does() -> None:
    for name in LINEARS:
        assert types("q3_k_s", name) == ["Q3_K"] * LAYERS
    assert types("q3_k_m", "qkv_proj") == ["Q5_K"] * 2 + ["Q4_K"] * 30
    assert types("q3_k_m", "down_proj") == ["Q5_K"] * 2 + ["Q4_K"] * 30
    assert types("q3_k_m", "o_proj") == ["Q4_K"] * LAYERS
    for name in ("qkv_proj", "down_proj", "o_proj"):
        assert types("q3_k_l", name) == ["Q5_K"] * LAYERS
    for kind in ("q3_k_m", "q3_k_l"):
        assert types(kind, "gate_up_proj") == ["Q3_K"] * LAYERS


@pytest.mark.parametrize("kind", ["IQ4_NL", "IQ4_XS"])
def test_types_of_a_table_take_more_bits_where_llama_cpp_does(kind: str) -> None:
    for name in LINEARS:
        assert types(kind, name) == [kind] * LAYERS
    assert types(kind, "qkv_proj", num_key_value_heads=1) == ["Q5_K"] * LAYERS
    assert types(kind, "down_proj", calibrated=False) == ["Q5_K"] * 4 + [kind] * 28
    assert types(kind, "o_proj", calibrated=False) == [kind] * LAYERS


@pytest.mark.parametrize(("kind", "replacement"), [("Q3_K_S", "Q4_0"), ("IQ4_XS", "IQ4_NL")])
def test_rows_that_do_not_fill_superblocks_take_llama_cpps_replacement(
    kind: str, replacement: str
) -> None:
    config = parse_config({**BASE, "model_type": "phi3"})
    chosen = file_type(kind, calibrated=True)
    assert linear_type(chosen, "o_proj", 1, config, 96).name == replacement
