import subprocess
import sys

import pytest

import phi3quant


def test_public_names_are_pinned_and_all_there() -> None:
    assert phi3quant.__all__ == [
        "Calibration",
        "EvaluationText",
        "Phi3QuantError",
        "QuantScheme",
        "Recipe",
        "__version__",
        "evaluate",
        "inspect",
        "quantize",
        "verify",
    ]
    for name in phi3quant.__all__:
        assert getattr(phi3quant, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = phi3quant.nothing


@pytest.mark.parametrize("first", ["converters", "calib.corpus", "phi3quant.run.pipeline"])
def test_any_package_can_be_imported_first(first: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import {first}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_package_alone_is_quick() -> None:
    code = "import phi3quant, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
