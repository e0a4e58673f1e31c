import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from calib import windows
from converters import LAYOUTS, open_weights
from converters.packed.reader import PackedCheckpoint
from phi3quant import EvaluationText, QuantScheme, inspect, verify
from phi3quant.disk.output import MANIFEST
from phi3quant.errors import CheckpointError
from phi3quant.model.architecture import LINEARS
from phi3quant.quant.methods import METHODS
from phi3quant.run import one_block
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.models import VARIANTS, VOCABULARY, make_model, own_logits
from tests.run.recipes import recipe


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_quantized_folder_scores_close_to_its_source(
    variant: str,
    method: str,
    checkpoint_folder: Callable[[str], Path],
    prose: Path,
    tmp_path: Path,
) -> None:
    made = quantize(
        checkpoint_folder(variant),
        tmp_path / "out",
        recipe(method, prose, scheme=QuantScheme(8, 32)),
    )
    scored = verify(made, EvaluationText(prose, length=64))
    compared = scored.comparisons[1]
    assert compared.candidate.not_finite == 0
    assert 0.9 < compared.ratio < 1.1
    assert 0 < float(compared.kl.mean()) < 0.3
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert manifest["verification"]["artifact"]["ratio"] == compared.ratio
    assert (manifest["calibration"] is None) == (method == "rtn")


def test_all_formats_carry_the_same_codes(
    checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    made = quantize(
        checkpoint_folder("gqa"), tmp_path / "out", recipe("awq", prose, formats=tuple(LAYOUTS))
    )
    models = [open_weights(folder) for folder in made.folders.values()]
    assert len(models) == len(LAYOUTS) > 1
    for index in range(2):
        for name in LINEARS:
            tensors = []
            for model in models:
                assert isinstance(model, PackedCheckpoint)
                tensors.append(model.quantized(index, name))
            assert all(torch.equal(t.codes, tensors[0].codes) for t in tensors)
            assert all(torch.equal(t.scales, tensors[0].scales) for t in tensors)
            assert all(torch.equal(t.dequantize(), tensors[0].dequantize()) for t in tensors)


def test_the_same_recipe_gives_the_same_bytes(
    checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    found = []
    for name in ("first", "second"):
        quantize(checkpoint_folder("gqa"), tmp_path / name, recipe("awq", prose))
        found.append(digests(tmp_path / name))
    assert found[0] == found[1]


def test_compensation_is_taken_only_where_held_back_windows_gain(
    checkpoint_folder: Callable[[str], Path],
    prose: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = checkpoint_folder("gqa")
    made = quantize(source, tmp_path / "taken", recipe("awq", prose))
    without = quantize(source, tmp_path / "without", recipe("awq", prose, compensate=False))
    assert any(block["compensated"] for block in made.blocks)
    assert made.blocks[0]["output_error"] < without.blocks[0]["output_error"]
    # Of each block: the error of AWQ, those of four trials, and that of RTN.
    for name, verdicts, compensate in (
        ("refused", [1.0, 2.0, 2.0, 2.0, 2.0, 3.0], True),
        ("not tried", [1.0, 3.0], False),
    ):
        given = itertools.cycle(verdicts)
        monkeypatch.setattr(one_block, "output_distance", lambda *_args, given=given: next(given))
        found = quantize(source, tmp_path / name, recipe("awq", prose, compensate=compensate))
        assert not any(block["compensated"] for block in found.blocks)
    weights = [
        load_file(tmp_path / name / "model.safetensors") for name in ("refused", "not tried")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_order_of_the_windows_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(3)
    cut = torch.randint(0, VOCABULARY, (9, 16), generator=generator)
    first = windows.shuffled_by_content(cut)
    again = windows.shuffled_by_content(cut[torch.randperm(9, generator=generator)])
    assert torch.equal(first, again)
    assert not torch.equal(first, cut)


def test_rtn_gives_the_same_bytes_on_any_number_of_threads(
    checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        quantize(checkpoint_folder("gqa"), tmp_path / str(threads), recipe("rtn", prose))
        found.append(digests(tmp_path / str(threads)))
    assert found[0] == found[1]


def test_bf16_products_calibrate_as_well_as_fp32_ones(
    checkpoint_folder: Callable[[str], Path],
    prose: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = []
    for dtype in (torch.float32, torch.bfloat16):
        ours = ("phi3quant.run.one_block", "phi3quant.quant.gram", "calib.streams", "calib.sums")
        for module in ours:
            monkeypatch.setattr(f"{module}.product_dtype", lambda _device=None, dtype=dtype: dtype)
        made = quantize(checkpoint_folder("gqa"), tmp_path / str(dtype), recipe("awq", prose))
        kept.append([block["error_ratio"] for block in made.blocks])
    assert kept[0] != kept[1]
    # The weights of this model are noise, so that near ties between candidates fall either way, and
    # what the first block chose changes what the second one sees.
    # Either may have the luck; what counts is that BF16 doesn't cost anything.
    assert kept[1][0] < 1.05 * kept[0][0]
    assert all(fast < 1.25 * exact for fast, exact in zip(kept[1], kept[0], strict=True))


@pytest.mark.parametrize(
    "scheme",
    [QuantScheme(), QuantScheme(4, 16, symmetric=False), QuantScheme(8, None)],
    ids=str,
)
@pytest.mark.parametrize("variant", ["gqa", "tied"])
def test_transformers_computes_the_same_with_the_folder(
    variant: str,
    scheme: QuantScheme,
    checkpoint_folder: Callable[[str], Path],
    prose: Path,
    tmp_path: Path,
) -> None:
    quantize(checkpoint_folder(variant), tmp_path / "out", recipe("rtn", prose, scheme=scheme))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    ids = torch.arange(60)[None]
    with torch.inference_mode():
        difference = own_logits(open_weights(tmp_path / "out"), ids) - model(ids).logits
    assert float(difference.abs().max()) < 1e-3


def test_a_block_that_would_be_worse_than_rtn_falls_back(
    checkpoint_folder: Callable[[str], Path],
    prose: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verdicts = itertools.cycle([*[float("nan")] * 5, 1.0])
    monkeypatch.setattr(one_block, "output_distance", lambda *_args: next(verdicts))
    made = quantize(checkpoint_folder("gqa"), tmp_path / "awq", recipe("awq", prose))
    assert all(block["fell_back_to_rtn"] for block in made.blocks)
    quantize(checkpoint_folder("gqa"), tmp_path / "rtn", recipe("rtn", prose))
    awq, rtn = (load_file(tmp_path / name / "model.safetensors") for name in ("awq", "rtn"))
    assert all(torch.equal(awq[name], rtn[name]) for name in rtn)


# MLX's scales may have any type.
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "mlx"])
def test_scales_of_another_type_are_read_where_fp16_holds_them(
    layout: str, checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    scheme = QuantScheme(4, 32, symmetric=False)
    made = quantize(checkpoint_folder("gqa"), tmp_path, Recipe("rtn", scheme, (layout,)))
    file = made.folders[layout] / "model.safetensors"
    before = open_weights(made.folders[layout]).block(0)["o_proj"]
    stored = load_file(file)
    name = next(name for name in stored if "o_proj" in name and "scale" in name)
    stored[name] = stored[name].float()
    save_file(stored, file)
    assert torch.equal(open_weights(made.folders[layout]).block(0)["o_proj"], before)
    stored[name] += 1e-6
    save_file(stored, file)
    with pytest.raises(CheckpointError, match="with scales that don't fit FP16"):
        open_weights(made.folders[layout]).block(0)


def test_tokenizer_and_generation_files_come_along_and_remote_code_does_not(
    tmp_path: Path, prose: Path
) -> None:
    source = tmp_path / "source"
    make_model(source)
    config = json.loads((source / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}
    (source / "config.json").write_text(json.dumps(config))
    (source / "modeling_phi3.py").write_text("raise SystemExit")
    (source / "LICENSE").write_text("MIT")
    quantize(source, tmp_path / "out", recipe("rtn", prose))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"tokenizer.json", "generation_config.json", "LICENSE", MANIFEST} <= names
    assert "modeling_phi3.py" not in names
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_the_manifest_says_where_everything_came_from(
    checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    source = checkpoint_folder("gqa")
    quantize(source, tmp_path / "out", recipe("awq", prose))
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    assert manifest["source"]["sha256"]["model.safetensors"] == digest
    assert manifest["recipe"]["group_size"] == 32
    assert manifest["calibration"]["windows"] == 8
    assert len(manifest["calibration"]["tokens_sha256"]) == 64
    assert len(manifest["blocks"]) == 2
    assert manifest["tools"]["torch"] == torch.__version__


def test_inspection_counts_what_is_stored(
    checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    quantize(checkpoint_folder("gqa"), tmp_path / "out", recipe("rtn", prose))
    plain, packed = inspect(checkpoint_folder("gqa")), inspect(tmp_path / "out")
    assert plain.parameters == packed.parameters == 102_720
    assert plain.linear_bits_per_weight == 32
    # Codes and scales, and 16 bytes for each matrix' shape.
    assert packed.linear_bits_per_weight == pytest.approx(4.5 + 8 * 4 * 16 / 30_720 / 4, abs=0.03)
    assert packed.format == "compressed-tensors int4 sym g32"
