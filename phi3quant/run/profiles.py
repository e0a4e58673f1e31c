"""Profiles: constraints of the ways to run a model on a phone.

A preset is a choice of quality; a profile is the set of types, heads and sizes that a phone's
runtime computes well, or at all. docs/guide/profiles.md has the sources.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from converters.gguf.type_policy import FileType, Limits, file_type
from converters.onnx.options import OnnxOptions
from phi3quant.quant.scheme import QuantScheme

_HEAD_AS_THE_REST = r"^(token_embd|output)\.weight$=q4_0"
# Types that Adreno's and Hexagon's backends of llama.cpp compute fast and without known faults.
_PLAIN_TYPES = ("Q4_0", "Q8_0", "F16", "F32")
# Weights that one session of a Hexagon NPU maps; llama.cpp splits larger models over several.
_SESSION_BYTES = 2 << 30


@dataclass(frozen=True)
class Profile:
    """Constraints of a runtime on a phone.

    Attributes:
        purpose: runtime and processor, for help texts.
        format: a key of converters.FORMATS.
        gguf_type: a key of gguf.type_policy.FILE_TYPES; None for other formats than GGUF.
        tensor_types: overrides of ``gguf_type``.
        limits: types that a GGUF file may hold, and its size; None for no limits.
        scheme: scheme of the codes of other formats.
        onnx: layout of an ONNX folder.
    """

    purpose: str
    format: str
    gguf_type: str | None = None
    tensor_types: tuple[str, ...] = ()
    limits: Limits | None = None
    scheme: QuantScheme = field(default_factory=QuantScheme)
    onnx: OnnxOptions = field(default_factory=OnnxOptions)

    def file_type(self, name: str | None, overrides: tuple[str, ...]) -> FileType:
        """Types of a GGUF file within this profile.

        Args:
            name: a key of FILE_TYPES in place of the profile's; None for the profile's.
            overrides: types of single tensors, which precede those of the profile.

        Raises:
            SchemeError: as type_policy.file_type.
        """
        kind = file_type(name or str(self.gguf_type), (*overrides, *self.overrides(name)))
        return replace(kind, limits=self.limits)

    def overrides(self, name: str | None) -> tuple[str, ...]:
        """Types of single tensors in a file of type ``name``, or the profile's if it is None."""
        unchanged = name is None or name.upper() == self.gguf_type
        return self.tensor_types if unchanged else ()


PROFILES: Mapping[str, Profile] = {
    "arm-cpu": Profile("llama.cpp on ARM CPUs", "gguf", "Q4_0"),
    "adreno": Profile(
        "llama.cpp on Adreno GPUs",
        "gguf",
        "Q4_0",
        (_HEAD_AS_THE_REST,),
        Limits("adreno", _PLAIN_TYPES),
    ),
    "hexagon": Profile(
        "llama.cpp on Hexagon NPUs",
        "gguf",
        "Q4_0",
        (_HEAD_AS_THE_REST,),
        Limits("hexagon", _PLAIN_TYPES, _SESSION_BYTES),
    ),
    "iphone-mlx": Profile(
        "mlx-swift on iPhones", "mlx", scheme=QuantScheme(4, 64, symmetric=False)
    ),
    "ort-cpu": Profile(
        "onnxruntime on ARM CPUs", "onnx", scheme=QuantScheme(4, 32), onnx=OnnxOptions(4)
    ),
}
"""Profiles by name."""
