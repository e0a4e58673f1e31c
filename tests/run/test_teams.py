"""Teams give the bytes of one process, and continue when a member dies."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from benchmarks.team_scaling import traffic
from phi3quant.cluster.ray_teams import ray_teams
from phi3quant.errors import ClusterError, MissingExtraError, SchemeError
from phi3quant.model.precision import product_dtype
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.conduct import Conduct
from phi3quant.run.pipeline import quantize
from phi3quant.run.recipe import Recipe
from phi3quant.source.checkpoint import open_checkpoint
from phi3quant.tuning.settings import TuningSettings
from tests.killing import hashes
from tests.models import make_model
from tests.run.recipes import recipe
from tests.teams import ThreadTeams

_ASYMMETRIC = QuantScheme(4, 16, symmetric=False)
CASES: Mapping[str, tuple[dict[str, object], tuple[int, ...]]] = {
    # 7 windows in batches of 2 are learned from, so the teams of 6 have more members than batches.
    "awq": ({}, (2, 3, 6)),
    "gptq": ({}, (2, 6)),
    "awq, asymmetric": ({"scheme": _ASYMMETRIC, "formats": ("onnx", "gptq")}, (3,)),
    "gptq, asymmetric": ({"scheme": _ASYMMETRIC}, (3,)),
    "awq, no compensation": ({"compensate": False}, (3,)),
    "gptq, no compensation": ({"compensate": False}, (2,)),
}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches and stripes that small models have several of."""
    torch.set_num_threads(1)
    monkeypatch.setattr("calib.batches.BATCH_TOKENS", 128)
    for module in ("calib.capture", "calib.sums"):
        monkeypatch.setattr(f"{module}.TILE", 32)


@pytest.mark.parametrize("case", CASES)
def test_a_team_gives_the_bytes_of_one_process(
    case: str, checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    choices, sizes = CASES[case]
    model, wanted = checkpoint_folder("gqa"), recipe(case.partition(",")[0], prose, **choices)
    alone = quantize(model, tmp_path / "alone", wanted)
    for size in sizes:
        out = tmp_path / str(size)
        shared = quantize(model, out, wanted, conduct=Conduct(teams=ThreadTeams(size)))
        assert hashes(out) == hashes(tmp_path / "alone"), size
        assert shared.blocks == alone.blocks


def test_without_splitting_rows_the_bytes_are_the_same(
    checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    model, wanted = checkpoint_folder("gqa"), recipe("awq", prose)
    quantize(model, tmp_path / "alone", wanted)
    teams = ThreadTeams(3, splits_rows=False)
    quantize(model, tmp_path / "team", wanted, conduct=Conduct(teams=teams))
    assert hashes(tmp_path / "team") == hashes(tmp_path / "alone")


def test_k_quants_and_a_tied_embedding_are_the_same_too(prose: Path, tmp_path: Path) -> None:
    model, wanted = tmp_path / "model", recipe("awq", prose, formats=("gguf",), gguf_type="Q4_K_M")
    wide = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8}
    make_model(model, num_hidden_layers=1, tie_word_embeddings=True, **wide)
    quantize(model, tmp_path / "alone", wanted)
    quantize(model, tmp_path / "team", wanted, conduct=Conduct(teams=ThreadTeams(2)))
    assert hashes(tmp_path / "team") == hashes(tmp_path / "alone")


@pytest.mark.parametrize("size", [2, 4])
def test_the_model_of_scaling_counts_the_bytes_that_are_exchanged(
    size: int, checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    model, teams = checkpoint_folder("mha"), ThreadTeams(size, splits_rows=True)
    quantize(model, tmp_path / "out", recipe("awq", prose), conduct=Conduct(teams=teams))
    config = open_checkpoint(model).config
    received = traffic(config, 8, 64, size, product_dtype().itemsize).total
    computed = received * size * config.num_hidden_layers
    assert teams.received[0] == pytest.approx(computed, rel=0.15)


@pytest.mark.parametrize("second", [2, 1])
def test_after_a_death_a_new_team_does_the_block_again(
    second: int, checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    model, wanted, said = checkpoint_folder("gqa"), recipe("gptq", prose), list[str]()
    counts = []
    for size in (3, second):
        whole = ThreadTeams(size)
        quantize(model, tmp_path / "whole", wanted, overwrite=True, conduct=Conduct(teams=whole))
        counts += whole.exchanges
    # In the second of two blocks.
    teams = ThreadTeams(3, second, deaths=[counts[0] * 3 // 4])
    conduct = Conduct(teams=teams, say=said.append)
    quantize(model, tmp_path / "out", wanted, conduct=conduct)
    assert said == ["a worker has died; a new team does block 1 again"]
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")
    # The first block isn't done again.
    assert teams.exchanges[1] < counts[1] * 2 // 3


def test_a_run_in_a_team_is_resumed_by_one_process(
    checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    model, wanted, out = checkpoint_folder("gqa"), recipe("gptq", prose), tmp_path / "out"
    whole = ThreadTeams(2)
    quantize(model, tmp_path / "whole", wanted, conduct=Conduct(teams=whole))
    teams = ThreadTeams(2, 2, 2, 2, deaths=[whole.exchanges[0] * 3 // 4, 8, 8, 8])
    with pytest.raises(ClusterError, match=r"failures in a row at block 1. .* pass .*resume"):
        quantize(model, out, wanted, conduct=Conduct(teams=teams))
    quantize(model, out, wanted, conduct=Conduct(resume=True))
    assert hashes(out) == hashes(tmp_path / "whole")


def test_an_error_of_a_member_ends_the_run_with_its_message(prose: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", num_hidden_layers=1)
    with torch.no_grad():
        # The second member has the last rows.
        model.model.layers[0].mlp.gate_up_proj.weight[-1] = 1e38
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(SchemeError, match="a matrix of block 0 can't be quantized"):
        quantize(
            tmp_path / "model",
            tmp_path / "out",
            recipe("gptq", prose),
            conduct=Conduct(teams=ThreadTeams(2)),
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "rtn"}, "rtn doesn't calibrate"),
        ({"tuning": TuningSettings()}, "Recipe.tuning.* runs on one machine"),
        ({"target_bpw": 5.0}, "Recipe.target_bpw.* measures losses on one machine"),
    ],
    ids=["rtn", "tuning", "target"],
)
def test_work_that_cannot_be_shared_is_refused(
    changes: dict[str, object],
    message: str,
    checkpoint_folder: Callable[[str], Path],
    prose: Path,
    tmp_path: Path,
) -> None:
    wanted = recipe(
        str(changes.get("method", "awq")),
        prose,
        **{key: value for key, value in changes.items() if key != "method"},
    )
    with pytest.raises(SchemeError, match=rf"{message}.*leave Conduct\(teams=\.\.\.\) out"):
        quantize(
            checkpoint_folder("gqa"),
            tmp_path / "out",
            wanted,
            conduct=Conduct(teams=ThreadTeams(2)),
        )
    assert not list(tmp_path.iterdir())


def test_a_coarse_output_matrix_is_refused(
    checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    wanted = Recipe("awq", formats=("gguf",), gguf_type="Q4_0", tensor_types=("output=q4_0",))
    with pytest.raises(SchemeError, match="Q4_0 output matrix"):
        quantize(
            checkpoint_folder("gqa"),
            tmp_path / "out",
            wanted,
            conduct=Conduct(teams=ThreadTeams(2)),
        )


def test_without_ray_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"phi3quant\[cluster\]"), ray_teams("local"):
        pass
