from pathlib import Path

import pytest
import torch

from tests.fuzz.readers import READERS, make_base
from tests.fuzz.trial import try_case

CASES = 8


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Valid files of every kind."""
    folder = tmp_path_factory.mktemp("base")
    make_base(folder)
    return folder


@pytest.mark.parametrize("name", READERS)
def test_spoiled_files_end_in_a_result_or_a_message(name: str, base: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    for number in range(CASES):
        trial = try_case(READERS[name], base, tmp_path / "case", f"{name} ci {number}")
        assert not trial.problem, f"{' '.join(trial.words)}\n{trial.problem}"
