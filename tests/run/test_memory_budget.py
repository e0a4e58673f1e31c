from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from calib.activations import Shelf, StoredHidden, parts
from calib.capture import advance, collect
from phi3quant.cli.main import main
from phi3quant.errors import MemoryLimitError
from phi3quant.model.architecture import LINEARS
from phi3quant.model.config import Phi3Config
from phi3quant.model.config_file import read_config
from phi3quant.model.decoder_block import sequence_context
from phi3quant.model.precision import product_dtype
from phi3quant.run import memory_budget
from phi3quant.source.checkpoint import open_checkpoint
from phi3quant.source.locate import bundled_folder
from tests.killing import hashes

MINI: dict[str, Any] = {"vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192}
SMALL = ("--samples", "6", "--seq-len", "64", "--no-verify")


@pytest.fixture
def mini() -> Phi3Config:
    """Phi-3-mini's sizes."""
    config = read_config(bundled_folder())
    heads: dict[str, Any] = {
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "num_hidden_layers": 32,
    }
    return replace(config, **MINI, **heads)


def line(method: str, model: Path, prose: Path, *words: str) -> list[str]:
    return [method, str(model), "--calib", str(prose), *SMALL, *words]


def test_states_on_disk_give_the_same_bytes(
    checkpoint_folder: Callable[[str], Path],
    prose: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = line("awq", checkpoint_folder("gqa"), prose)
    used: list[Path] = []
    whole = StoredHidden.parts

    def watched(stored: StoredHidden, windows: int, *, changed: bool) -> Iterator[torch.Tensor]:
        used.append(stored.file)
        return whole(stored, windows, changed=changed)

    monkeypatch.setattr(StoredHidden, "parts", watched)
    assert CliRunner().invoke(main, [*words, "-o", str(tmp_path / "memory")]).exit_code == 0
    assert not used
    # Room for everything but the states.
    monkeypatch.setattr("phi3quant.run.memory_budget.available_memory", lambda: 10**12)
    need = memory_budget.needs(
        read_config(checkpoint_folder("gqa")),
        memory_budget.Calibrated(6, 64, compensate=True),
        product_dtype().itemsize,
    )
    limit = ("--max-memory", str(need.memory + need.states - 1))
    assert CliRunner().invoke(main, [*words, *limit, "-o", str(tmp_path / "disk")]).exit_code == 0
    assert {file.name for file in used} == {
        f"states.{name}" for name in ("actual", "clean", "attended", "middle", "inner")
    }
    assert hashes(tmp_path / "memory") == hashes(tmp_path / "disk")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "memory"]


def test_stored_states_are_learned_from_and_advanced_like_those_in_memory(
    checkpoint_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(checkpoint_folder("gqa"))
    block, context = checkpoint.block(0), sequence_context(checkpoint.config, 1500)
    states = torch.randn(7, 1500, 64, generator=torch.Generator().manual_seed(1))

    def pieces() -> Iterator[torch.Tensor]:
        yield from torch.split(states, 1)

    stored = Shelf(tmp_path).put("some", pieces(), (7, 1500, 64))
    kept, read = collect(block, context, states), collect(block, context, stored)
    for name in LINEARS:
        assert torch.equal(kept[name].captured, read[name].captured)
    advance(block, context, states)
    advance(block, context, stored)
    assert torch.equal(torch.cat(list(parts(stored, 2))), states)


def test_too_little_memory_is_refused_before_any_work(
    checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    for method in ("awq", "rtn"):
        words = line(method, checkpoint_folder("gqa"), prose, "--max-memory", "100MiB")
        result = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "out")])
        assert result.exit_code == 2
        assert "MB of memory and --max-memory is 104.86 MB; allow more" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_machine_without_room_is_refused_too(
    mini: Phi3Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = memory_budget.needs(mini, memory_budget.Calibrated(32, 512, compensate=True))
    monkeypatch.setattr(memory_budget, "available_memory", lambda: 2 << 30)
    with pytest.raises(MemoryLimitError, match="close other programs"):
        memory_budget.in_memory(need, None)


def test_needs_at_full_size_are_those_that_were_measured(mini: Phi3Config) -> None:
    # Peaks of `awq` and `rtn` on benchmarks/synthetic.py's mini-4k.
    calibrated = memory_budget.needs(mini, memory_budget.Calibrated(32, 512, compensate=True))
    assert calibrated.memory + calibrated.states == pytest.approx(4.50e9, rel=0.15)
    assert memory_budget.needs(mini, None).memory == pytest.approx(0.86e9, rel=0.25)


def test_needs_grow_with_the_text_alone(mini: Phi3Config) -> None:
    few, many = (
        memory_budget.needs(mini, memory_budget.Calibrated(windows, 512, compensate=True))
        for windows in (32, 64)
    )
    assert many.states == 2 * few.states
    plain = memory_budget.needs(mini, memory_budget.Calibrated(64, 512, compensate=False))
    assert plain.states == 64 * 512 * 3072 * 4
    assert many.memory == few.memory
    assert many.disk == few.disk


@pytest.mark.parametrize(("given", "size"), [("4GiB", 4 << 30), ("1.5g", 1_500_000_000)])
def test_sizes_are_decimal_or_binary(given: str, size: int) -> None:
    from phi3quant.cli.values import Size

    assert Size().convert(given, None, None) == size


@pytest.mark.parametrize(
    ("available", "limit", "kept"), [(2.0, None, True), (1.2, None, False), (2.0, 2.0, False)]
)
def test_freed_memory_is_kept_only_where_there_is_plenty(
    available: float,
    limit: float | None,
    kept: object,
    mini: Phi3Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need = memory_budget.needs(mini, memory_budget.Calibrated(32, 512, compensate=True))
    whole = need.memory + need.states
    monkeypatch.setattr(memory_budget, "available_memory", lambda: int(available * whole))
    assert memory_budget.leaves_room(need, None if limit is None else int(limit * whole)) is kept
