"""Recipes with names, for those who don't want to choose."""

from collections.abc import Mapping

from converters.onnx.options import OnnxOptions
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.recipe import Calibration, Recipe

# Twice the windows of the default: what is prepared once for many phones may take longer.
_MORE = Calibration(samples=128)

PRESETS: Mapping[str, Recipe] = {
    # Q4_0 and MatMulNBits blocks of 32: what phones' kernels are fastest with. Both files have the
    # same codes; head and embedding take 6 and 8 bits.
    "phone-fast": Recipe(scheme=QuantScheme(4, 32), formats=("gguf", "onnx"), calibration=_MORE),
    # K-quants, with more bits for the matrices that llama.cpp found to need them.
    "phone-quality": Recipe(formats=("gguf",), calibration=_MORE, gguf_type="Q4_K_M"),
    # Large groups, and an embedding of 4 bits: for what must fit.
    "small": Recipe(
        scheme=QuantScheme(4, 128),
        formats=("onnx",),
        calibration=_MORE,
        onnx=OnnxOptions(embedding="int4"),
    ),
}
"""By name; ``dataclasses.replace`` changes what suits you, such as the calibration text."""
