"""Runs that are refused before any work."""

from collections.abc import Callable
from pathlib import Path

import pytest

from phi3quant import QuantScheme
from phi3quant.errors import CheckpointError, OutputError, SchemeError
from phi3quant.run.pipeline import quantize
from tests.models import make_model
from tests.run.recipes import recipe


def test_a_quantized_model_is_not_quantized_again(
    checkpoint_folder: Callable[[str], Path], prose: Path, tmp_path: Path
) -> None:
    quantize(checkpoint_folder("gqa"), tmp_path / "out", recipe("rtn", prose))
    with pytest.raises(CheckpointError, match="quantized already"):
        quantize(tmp_path / "out", tmp_path / "again", recipe("rtn", prose))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheme": QuantScheme(4, 64)}, "doesn't divide rows of 96"),
        ({"scheme": QuantScheme(8, 32), "formats": ("awq-gemm",)}, "holds 4 bits, not 8"),
        ({"scheme": QuantScheme(3, 32)}, "holds 4 or 8 bits, not 3; export gptq or mlx instead"),
        ({"scheme": QuantScheme(3, 32), "formats": ("onnx",)}, "MatMulNBits holds 4 or 8 bits"),
        ({"scheme": QuantScheme(3, 32), "formats": ("gguf",)}, r"no type for int3 .*Q3_K_M"),
        ({"tensor_types": ("down=int3",)}, "compressed-tensors holds 4 or 8 bits, not 3"),
        ({"scheme": QuantScheme(6, 32), "formats": ("gptq",)}, "not 6; export mlx instead"),
        ({"formats": ("gguff",)}, "no format gguff"),
        ({"formats": ()}, "none given"),
        ({"tensor_types": ("v_proj=int8",)}, r"'v_proj' matches v_proj, .*; write qkv_proj"),
        ({"tensor_types": ("(k|up)_proj=int8",)}, r"matches k_proj, .*; write qkv_proj"),
        ({"tensor_types": ("experts=int8",)}, "no matrix's name matches 'experts'"),
        ({"tensor_types": ("lm_head=int8",)}, "no matrix's name matches 'lm_head'"),
        (
            {"tensor_types": ("down_proj=q8_0",)},
            "types are int2, int3, int4, int5, int6, int8, and",
        ),
        ({"tensor_types": ("int8",)}, "is not PATTERN=TYPE"),
        ({"tensor_types": ("(=int8",)}, "not a regular expression"),
        ({"tensor_types": ("down=int8",), "formats": ("awq-gemm",)}, "one scheme for all"),
        (
            {
                "tensor_types": ("down=int8",),
                "formats": ("gguf",),
                "scheme": QuantScheme(4, 32, symmetric=False),
            },
            "down_proj.weight: GGUF has no type for int8 asym",
        ),
    ],
)
def test_what_a_format_cannot_hold_is_refused_before_any_work(
    changes: dict[str, object],
    message: str,
    checkpoint_folder: Callable[[str], Path],
    prose: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(SchemeError, match=message):
        quantize(checkpoint_folder("gqa"), tmp_path / "out", recipe("awq", prose, **changes))
    assert not list(tmp_path.iterdir())


def test_output_inside_the_model_is_refused(tmp_path: Path, prose: Path) -> None:
    make_model(tmp_path / "source")
    for output in (tmp_path / "source" / "out", tmp_path / "source"):
        with pytest.raises(OutputError):
            quantize(tmp_path / "source", output, recipe("rtn", prose), overwrite=True)


def test_a_full_disk_is_noticed_before_the_work(
    checkpoint_folder: Callable[[str], Path],
    prose: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("phi3quant.disk.output.shutil.disk_usage", lambda _path: Usage)
    with pytest.raises(OutputError, match="free some space"):
        quantize(checkpoint_folder("gqa"), tmp_path / "out", recipe("rtn", prose))
