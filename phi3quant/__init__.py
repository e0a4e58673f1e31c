"""phi3quant: 4-bit Phi-3 checkpoints with a measured statement of what they cost.

The names below are imported when they are first used, so that ``converters`` and ``calib``, which
build on this package's core, can be imported on their own.
"""

import importlib
from typing import TYPE_CHECKING, Any

from phi3quant.supported import require_supported

if TYPE_CHECKING:
    from phi3quant.errors import Phi3QuantError
    from phi3quant.inspection import inspect
    from phi3quant.pipeline import Calibration, Recipe, quantize
    from phi3quant.scheme import QuantScheme
    from phi3quant.verification import EvaluationText, evaluate, verify

_HOMES = {
    "Calibration": "pipeline",
    "EvaluationText": "verification",
    "Phi3QuantError": "errors",
    "QuantScheme": "scheme",
    "Recipe": "pipeline",
    "evaluate": "verification",
    "inspect": "inspection",
    "quantize": "pipeline",
    "verify": "verification",
}

__all__ = [
    "Calibration",
    "EvaluationText",
    "Phi3QuantError",
    "QuantScheme",
    "Recipe",
    "evaluate",
    "inspect",
    "quantize",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_supported()
    return getattr(importlib.import_module(f"phi3quant.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
