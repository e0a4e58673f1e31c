"""``phi3quant imatrix`` and exports with its result."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gguf import GGUFReader

from calib.activations import Shelf
from calib.importance import input_squares
from converters import open_weights
from converters.gguf.imatrix_reader import read_imatrix
from converters.gguf.type_policy import file_type
from phi3quant.cli.main import main
from phi3quant.errors import OutputError, SchemeError
from phi3quant.model import precision
from phi3quant.progress import silent
from phi3quant.quant.codecs.ggml_blocks import TYPES
from phi3quant.run.calibration import Calibration
from phi3quant.run.calibration_windows import calibration_windows
from phi3quant.run.export import export_gguf
from phi3quant.run.imatrix import write_imatrix
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.run.shared_work import SharedWork
from phi3quant.source.locate import locate
from tests.models import PROSE, VARIANTS, make_model

NAMES = {
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture
def text(tmp_path: Path) -> Calibration:
    (tmp_path / "text.txt").write_text(PROSE, encoding="utf-8")
    return Calibration(tmp_path / "text.txt", samples=3, length=64)


@pytest.mark.parametrize("variant", VARIANTS)
def test_sums_are_those_of_the_inputs_in_transformers(
    variant: str, text: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In BF16, where the machine multiplies it fastest, sums of noise differ by several percent.
    monkeypatch.setattr(precision, "product_dtype", lambda _device=None: torch.float32)
    reference = make_model(tmp_path / "model", **VARIANTS[variant])
    expected: dict[str, torch.Tensor] = {}

    def hooked(name: str) -> None:
        def hook(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            squares = inputs[0].flatten(0, -2).double().square().sum(dim=0)
            expected[name] = expected.get(name, torch.zeros(1)) + squares

        reference.get_submodule(name).register_forward_pre_hook(hook)

    layers = range(reference.config.num_hidden_layers)
    for index in layers:
        for part in NAMES:
            hooked(f"model.layers.{index}.{part}")
    hooked("lm_head")
    ids = calibration_windows(SharedWork().opened(locate(tmp_path / "model")), text).ids
    with torch.inference_mode():
        reference(ids)
    output = tmp_path / "imatrix.gguf"
    write_imatrix(tmp_path / "model", output, calibration=text, process_output=True)
    written = read_imatrix(output)
    names = {
        f"blk.{index}.{NAMES[part]}.weight": f"model.layers.{index}.{part}"
        for index in layers
        for part in NAMES
    }
    if variant != "tied":
        names["output.weight"] = "lm_head"
    assert written.sums.keys() == names.keys()
    assert set(written.counts.values()) == {ids.numel()}
    assert (written.chunks, written.chunk_tokens) == tuple(ids.shape)
    for name, module in names.items():
        torch.testing.assert_close(
            torch.from_numpy(written.sums[name]), expected[module].float(), rtol=1e-3, atol=1e-3
        )


def test_states_on_disk_give_the_same_sums(text: Calibration, tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    opened = SharedWork().opened(locate(tmp_path / "model"))
    ids = calibration_windows(opened, text).ids
    with silent("", 0) as step:
        sums = [
            input_squares(opened.model, ids, shelf, step, head=True).sums
            for shelf in (Shelf(), Shelf(tmp_path))
        ]
    for name, values in sums[0].items():
        assert torch.equal(values, sums[1][name])


def test_an_export_encodes_with_the_importance(text: Calibration, tmp_path: Path) -> None:
    make_model(tmp_path / "model", hidden_size=256, intermediate_size=256)
    imatrix = tmp_path / "imatrix.gguf"
    write_imatrix(tmp_path / "model", imatrix, calibration=text)
    kind = file_type("q4_k_s")
    export_gguf(tmp_path / "model", tmp_path / "out", kind=kind, imatrix=imatrix)
    (file,) = (tmp_path / "out").glob("*.gguf")
    reader = GGUFReader(file)
    model = open_weights(tmp_path / "model")
    importance = read_imatrix(imatrix).importance("blk.1.ffn_up.weight")
    assert importance is not None
    weight = model.block(1)["gate_up_proj"]
    (tensor,) = [t for t in reader.tensors if t.name == "blk.1.ffn_up.weight"]
    encoded = TYPES["Q4_K"].encode(weight, torch.from_numpy(importance))
    assert tensor.data.tobytes() == encoded.tobytes()
    assert tensor.data.tobytes() != TYPES["Q4_K"].encode(weight, None).tobytes()
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["quantize.imatrix.file"] == "imatrix.gguf"
    assert fields["quantize.imatrix.dataset"] == str(text.source)
    assert fields["quantize.imatrix.entries_count"] == 8
    assert fields["quantize.imatrix.chunks_count"] == 3
    manifest = json.loads((tmp_path / "out" / "phi3quant.json").read_text())
    assert manifest["recipe"]["imatrix"] == "imatrix.gguf"
    assert len(manifest["recipe"]["imatrix_sha256"]) == 64


def test_a_channel_that_is_always_zero_can_be_encoded(text: Calibration, tmp_path: Path) -> None:
    make_model(tmp_path / "model", hidden_size=256, intermediate_size=256)
    imatrix = tmp_path / "imatrix.gguf"
    write_imatrix(tmp_path / "model", imatrix, calibration=text)
    content = bytearray(imatrix.read_bytes())
    first = GGUFReader(imatrix).tensors[0]
    content[first.data_offset : first.data_offset + first.n_bytes] = bytes(first.n_bytes)
    imatrix.write_bytes(content)
    for kind in ("q4_k_m", "q4_0", "q5_1"):
        out = tmp_path / kind
        export_gguf(tmp_path / "model", out, kind=file_type(kind), imatrix=imatrix)
        assert np.isfinite(open_weights(next(out.glob("*.gguf"))).block(0)["o_proj"].numpy()).all()


def test_a_quantized_model_has_no_use_for_one(text: Calibration, tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    imatrix = tmp_path / "imatrix.gguf"
    quantize(tmp_path / "model", tmp_path / "rtn", Recipe("rtn"))
    # A packed model can be measured, as llama-imatrix measures quantized files.
    write_imatrix(tmp_path / "rtn", imatrix, calibration=text)
    with pytest.raises(SchemeError, match="keeps its codes"):
        export_gguf(tmp_path / "rtn", tmp_path / "out", imatrix=imatrix)


def test_a_file_that_exists_is_kept(text: Calibration, tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    output = tmp_path / "imatrix.gguf"
    output.write_text("kept")
    with pytest.raises(OutputError, match="pass overwrite=True"):
        write_imatrix(tmp_path / "model", output, calibration=text)
    assert output.read_text() == "kept"
    with pytest.raises(OutputError, match="must not lie inside"):
        write_imatrix(tmp_path / "model", tmp_path / "model" / "i.gguf", calibration=text)


def test_the_command_reports_the_file_as_json(text: Calibration, tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    words = ["imatrix", str(tmp_path / "model"), "-o", str(tmp_path / "i.gguf"), "--json"]
    words += ["--calib", str(text.source), "--samples", "2", "--seq-len", "32"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["matrices"] == 8
    assert (report["windows"], report["window_tokens"]) == (2, 32)
    words = ["export", "gguf", str(tmp_path / "model"), "--type", "q4_0", "--no-verify", "--json"]
    words += ["--imatrix", str(tmp_path / "i.gguf"), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
