"""ONNX folders as they lie on disk: listed, verified, and broken on purpose."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import GraphProto, TensorProto, helper

from converters import open_model, open_tokenizer
from converters.onnx.options import OnnxOptions
from converters.onnx.reader import open_onnx
from phi3quant import inspect, verify
from phi3quant.errors import CheckpointError, InputError, Phi3QuantError, SchemeError
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.evaluation.perplexity import score
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.calibration import Calibration
from phi3quant.run.export import export_onnx
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from tests.models import VOCABULARY

IDS = torch.randint(0, VOCABULARY, (1, 60), generator=torch.Generator().manual_seed(5))
SIXTEEN = OnnxOptions(embedding="fp16", head="fp16")
"""ONNX options with the FP16 parts of a packed folder."""


@pytest.fixture(scope="module")
def made(
    checkpoint_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Path]:
    """The same codes as a packed folder and as ONNX, both with 16-bit embeddings."""
    recipe = Recipe("rtn", QuantScheme(), ("compressed-tensors", "onnx"), onnx=SIXTEEN)
    return quantize(
        checkpoint_folder("gqa"), tmp_path_factory.mktemp("made") / "out", recipe
    ).folders


def test_a_packed_folder_exports_to_the_same_bytes_later(
    made: Mapping[str, Path], tmp_path: Path
) -> None:
    later = export_onnx(made["compressed-tensors"], tmp_path / "out", options=SIXTEEN)
    files = [folder / "model.onnx.data" for folder in (made["onnx"], later.folders["onnx"])]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_verification_scores_with_rounded_activations_and_without(
    checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    calibration = Calibration(prose, samples=4, length=64)
    recipe = Recipe("awq", formats=("onnx",), calibration=calibration)
    result = verify(
        quantize(checkpoint_folder("gqa"), tmp_path / "out", recipe),
        EvaluationText(prose, length=64),
    )
    assert [name.split("out")[-1] for name in result.names[1:]] == [" (level 4)", " (level 0)"]
    assert list(result.origins) == [0, 1, 1]
    manifest = json.loads((tmp_path / "out" / "phi3quant.json").read_text())
    assert manifest["recipe"]["onnx"]["head"] == "int8"
    for key, number in (("artifact", 1), ("at_accuracy_level_0", 2)):
        figure = manifest["verification"][key]["perplexity"]
        assert figure == result.comparisons[number].candidate.perplexity
    assert inspect(tmp_path / "out").format == "ONNX int4 sym g32"
    assert (
        open_tokenizer(tmp_path / "out").digest == open_tokenizer(checkpoint_folder("gqa")).digest
    )


def test_a_folder_lists_its_files_and_describes_itself(made: Mapping[str, Path]) -> None:
    folder = made["onnx"]
    listed = json.loads((folder / "files.json").read_text())
    others = {path.name for path in folder.iterdir()} - {"files.json", "phi3quant.json"}
    assert set(listed) == others
    for name, entry in listed.items():
        assert (folder / name).stat().st_size == entry["bytes"]
    settings = json.loads((folder / "genai_config.json").read_text())
    assert settings["model"]["type"] == "phi3"
    assert settings["model"]["eos_token_id"] == [2, 6]
    assert settings["search"]["max_length"] == 256
    assert "sliding_window" not in settings["model"]["decoder"]
    described = json.loads((folder / "tokenizer_config.json").read_text())
    assert described["model_max_length"] == 256


def shorten(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


def rename_logits(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"logits", b"scores"))


def escape(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"model.onnx.data", b"../../etc/passw"))


def edit(folder: Path, change: Callable[[GraphProto], object]) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    change(model.graph)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def place_inside_a_branch(graph: GraphProto) -> None:
    """A constant of an If's branch that lies in a file of the file system's root."""
    outside = TensorProto(name="outside", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="/etc/hostname")
    constant = helper.make_node("Constant", [], ["inner"], value=outside)
    branch = helper.make_graph([constant], "branch", [], [])
    graph.node.append(helper.make_node("If", ["c"], ["o"], then_branch=branch, else_branch=branch))


def move_data(location: str) -> Callable[[Path], None]:
    def change(graph: GraphProto) -> None:
        tensor = next(entry for entry in graph.initializer if entry.external_data)
        next(e for e in tensor.external_data if e.key == "location").value = location

    return lambda folder: edit(folder, change)


def set_offset(offset: str) -> Callable[[Path], None]:
    def change(graph: GraphProto) -> None:
        tensor = next(entry for entry in graph.initializer if entry.external_data)
        next(e for e in tensor.external_data if e.key == "offset").value = offset

    return lambda folder: edit(folder, change)


def drop_block_size(graph: GraphProto) -> None:
    node = next(node for node in graph.node if node.op_type == "MatMulNBits")
    kept = [entry for entry in node.attribute if entry.name != "block_size"]
    del node.attribute[:]
    node.attribute.extend(kept)


def drop_inputs_of_the_head(graph: GraphProto) -> None:
    del next(node for node in graph.node if "logits" in node.output).input[:]


def spoil_a_name(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes().replace(b"model.norm", b"model\xff\xfenor"[:10]))


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (lambda f: shorten(f / "model.onnx.data", 1), "cut short or replaced"),
        (lambda f: (f / "model.onnx.data").unlink(), "model.onnx.data is missing"),
        (lambda f: spoil(f / "model.onnx.data"), "is damaged: its SHA-256"),
        (lambda f: shorten(f / "model.onnx", 7), "is not an ONNX model"),
        (lambda f: rename_logits(f / "model.onnx"), "no output logits"),
        (lambda f: escape(f / "model.onnx"), "not a file next to it"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (move_data("x" * 300), "not a file next to it"),
        (move_data("a\0b"), "not a file next to it"),
        (move_data(".."), "not a file next to it"),
        (set_offset("9" * 5000), "not a file next to it"),
        (set_offset("\u0663"), "not a file next to it"),
        (lambda f: edit(f, place_inside_a_branch), "places tensor outside"),
        (lambda f: edit(f, drop_block_size), "no block_size"),
        (lambda f: edit(f, drop_inputs_of_the_head), "has no inputs"),
        (spoil_a_name, "not UTF-8"),
        (lambda f: (f / "model.onnx.data").write_text(POINTER), "git lfs pull"),
        (lambda f: (f / "model.onnx").write_text(POINTER), "git lfs pull"),
    ],
)
def test_a_broken_folder_is_refused_before_it_is_loaded(
    breakage: Callable[[Path], object], message: str, made: Mapping[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(made["onnx"], tmp_path / "copy")
    breakage(tmp_path / "copy")

    def run() -> None:
        score([open_onnx(tmp_path / "copy")], IDS)

    with pytest.raises(Phi3QuantError, match=message):
        run()


def test_a_short_file_is_seen_without_a_list_of_files(
    made: Mapping[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(made["onnx"], tmp_path / "copy")
    (tmp_path / "copy" / "files.json").unlink()
    shorten(tmp_path / "copy" / "model.onnx.data", 1)
    with pytest.raises(CheckpointError, match="cut short"):
        open_model(tmp_path / "copy")


def test_an_old_runtime_says_which_one_is_needed(
    made: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.20.1")
    with pytest.raises(Phi3QuantError, match=r"onnxruntime 1\.20\.1 is too old; 1\.23 or newer"):
        score([open_onnx(made["onnx"])], IDS)


def test_a_graph_that_the_runtime_refuses_ends_with_its_reason(
    made: Mapping[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(made["onnx"], tmp_path / "copy")
    path = tmp_path / "copy" / "model.onnx"
    path.write_bytes(path.read_bytes().replace(b"Sigmoid", b"Sogmoid"))
    with pytest.raises(CheckpointError, match="can't load"):
        score([open_onnx(tmp_path / "copy")], IDS)


def test_windows_longer_than_the_context_are_refused(made: Mapping[str, Path]) -> None:
    with pytest.raises(InputError, match="longer than the context"):
        score([open_onnx(made["onnx"])], torch.zeros(1, 257, dtype=torch.int64))


def test_what_onnx_cannot_hold_is_refused_before_any_work(
    made: Mapping[str, Path], checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    calibration = Calibration(tmp_path / "no such text")
    recipe = Recipe("awq", QuantScheme(4, None), ("onnx",), calibration)
    with pytest.raises(SchemeError, match="choose a group_size"):
        quantize(checkpoint_folder("gqa"), tmp_path / "out", recipe)
    with pytest.raises(CheckpointError, match="ONNX model already"):
        quantize(made["onnx"], tmp_path / "out", Recipe("rtn"))
    assert not list(tmp_path.iterdir())
