"""phi3quant: 4-bit Phi-3 checkpoints with a measured loss of quality.

    import phi3quant

    artifacts = phi3quant.quantize("phi3-tiny", "out")
    evaluation = phi3quant.verify(artifacts)
    print(evaluation["out"].ratio)

Public names are imported when they are first used, so that ``import phi3quant`` doesn't wait for
torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from phi3quant.supported import require_supported

if TYPE_CHECKING:
    from phi3quant.auditing.audit import audit
    from phi3quant.errors import Phi3QuantError
    from phi3quant.evaluation.evaluate import EvaluationText, evaluate
    from phi3quant.evaluation.inspection import inspect
    from phi3quant.quant.scheme import QuantScheme
    from phi3quant.run.calibration import Calibration
    from phi3quant.run.conduct import Conduct
    from phi3quant.run.pipeline import quantize
    from phi3quant.run.recipe import Recipe
    from phi3quant.run.verification import verify
    from phi3quant.source.locate import locate
    from phi3quant.tuning.settings import TuningSettings
    from phi3quant.version import __version__

_HOMES = {
    "Calibration": "run.calibration",
    "Conduct": "run.conduct",
    "EvaluationText": "evaluation.evaluate",
    "Phi3QuantError": "errors",
    "QuantScheme": "quant.scheme",
    "Recipe": "run.recipe",
    "TuningSettings": "tuning.settings",
    "__version__": "version",
    "audit": "auditing.audit",
    "evaluate": "evaluation.evaluate",
    "inspect": "evaluation.inspection",
    "locate": "source.locate",
    "quantize": "run.pipeline",
    "verify": "run.verification",
}

__all__ = [
    "Calibration",
    "Conduct",
    "EvaluationText",
    "Phi3QuantError",
    "QuantScheme",
    "Recipe",
    "TuningSettings",
    "__version__",
    "audit",
    "evaluate",
    "inspect",
    "locate",
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
