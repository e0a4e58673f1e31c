"""Presets: named recipes for common purposes, and recipes within the profiles of phones."""

from collections.abc import Mapping

from converters.onnx.options import OnnxOptions
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.calibration import Calibration
from phi3quant.run.profiles import PROFILES
from phi3quant.run.recipe import Recipe
from phi3quant.tuning.settings import TuningSettings

# Twice the default windows: a model that is prepared once for many phones may take longer.
_THOROUGH = Calibration(samples=128)

PRESETS: Mapping[str, Recipe] = {
    # Q4_0 and MatMulNBits with blocks of 32, for which kernels on phones are fastest. Both files
    # have the same codes; head and embedding take 6 and 8 bits.
    "phone-fast": Recipe(
        scheme=QuantScheme(4, 32), formats=("gguf", "onnx"), calibration=_THOROUGH
    ),
    # The files of phone-fast, calibrated and tuned on all of the bundled text: closest to the
    # original at their size, and by far the slowest to make.
    "best": Recipe(
        scheme=QuantScheme(4, 32),
        formats=("gguf", "onnx"),
        calibration=Calibration(samples=512),
        tuning=TuningSettings(windows=512, passes=4),
    ),
    # K-quants, with more bits for the matrices that need them according to llama.cpp.
    "phone-quality": Recipe(formats=("gguf",), calibration=_THOROUGH, gguf_type="Q4_K_M"),
    # MLX's usual groups of 64 for iPhones and Macs. Its offsets make zero points free.
    "iphone": Recipe(
        scheme=QuantScheme(4, 64, symmetric=False), formats=("mlx",), calibration=_THOROUGH
    ),
    # Large groups and a 4-bit embedding, for models that must fit into little memory.
    "small": Recipe(
        scheme=QuantScheme(4, 128),
        formats=("onnx",),
        calibration=_THOROUGH,
        onnx=OnnxOptions(embedding="int4"),
    ),
}
"""Recipes by name; ``dataclasses.replace`` changes parts, such as the calibration text."""


def profiled(name: str) -> Recipe:
    """Recipe of a profile, as thorough as the presets.

    Args:
        name: a key of phi3quant.run.profiles.PROFILES.
    """
    profile = PROFILES[name]
    return Recipe(
        scheme=profile.scheme,
        formats=(profile.format,),
        calibration=_THOROUGH,
        gguf_type=profile.gguf_type,
        tensor_types=profile.tensor_types,
        onnx=profile.onnx,
        profile=name,
    )
