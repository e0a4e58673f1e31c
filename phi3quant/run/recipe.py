"""Recipes: all choices that determine the weights of an artifact."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from converters import FORMATS
from converters.format import Format
from converters.gguf import writer as gguf_writer
from converters.gguf.repack import AFFINE
from converters.gguf.type_policy import MIXED, FileType, file_type, matrix_type
from converters.onnx import writer as onnx_writer
from converters.onnx.options import OnnxOptions
from converters.packed import mlx
from converters.packed.mlx_options import MlxOptions
from converters.packed.writer import packed_format
from converters.widths import HELD_BITS
from phi3quant.errors import SchemeError, require
from phi3quant.model.architecture import EMBEDDING, HEAD, LINEARS, block_tensor_name
from phi3quant.model.config import Phi3Config
from phi3quant.quant.codecs import Codecs
from phi3quant.quant.codecs.affine import AffineCodec
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.methods import METHODS
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.scheme_overrides import parse_overrides, schemes_with_overrides
from phi3quant.run.calibration import Calibration
from phi3quant.run.profiles import PROFILES
from phi3quant.tuning.settings import TuningSettings

# Type of the output matrix whose rounding loses enough to choose its codes by its inputs.
_COARSE = "Q4_0"
# Bits that a target for the bits per weight may choose.
_TARGET_BITS = (3, 4, 8)


@dataclass(frozen=True)
class Recipe:
    """All choices that determine the weights of an artifact.

    Attributes:
        method: a key of phi3quant.quant.methods.METHODS.
        scheme: bits, group size, symmetry.
        formats: keys of converters.FORMATS; the first is the output folder itself, the others are
            folders in it.
        calibration: calibration text, for methods that calibrate.
        compensate: whether later codes compensate for the errors of earlier codes and blocks, where
            that lowers the error.
        gguf_type: a key of gguf.type_policy.FILE_TYPES, in any case; codes are chosen for its types
            instead of the scheme. Requires ``gguf`` as the only format.
        tensor_types: types of single matrices: overrides of gguf_type (see
            gguf.type_policy.file_type), or without it of the scheme's bits (see
            quant.scheme_overrides).
        target_bpw: limit on the bits per weight of each whole artifact. Every matrix gets a type by
            measured loss: a GGUF type if ``gguf`` is the only format, otherwise 4 or 8 bits, or
            3 or 4 where 4 don't reach the target and all formats hold 3. Excludes gguf_type and
            tensor_types.
        onnx: layout of ``onnx``, if it is one of the formats.
        mlx: embedding and head of ``mlx``, if it is one of the formats.
        tuning: how scales and norms are tuned after calibration; None: they aren't.
        profile: a key of phi3quant.run.profiles.PROFILES whose limits the types must keep; see
            presets.profiled.

    Raises:
        SchemeError: a value has a wrong type.
    """

    method: str = "awq"
    scheme: QuantScheme = field(default_factory=QuantScheme)
    formats: tuple[str, ...] = (next(iter(FORMATS)),)
    calibration: Calibration = field(default_factory=Calibration)
    compensate: bool = True
    gguf_type: str | None = None
    tensor_types: tuple[str, ...] = ()
    target_bpw: float | None = None
    onnx: OnnxOptions = field(default_factory=OnnxOptions)
    mlx: MlxOptions = field(default_factory=MlxOptions)
    tuning: TuningSettings | None = None
    profile: str | None = None

    def __post_init__(self) -> None:
        require(SchemeError, "method", self.method, str)
        require(SchemeError, "scheme", self.scheme, QuantScheme)
        require(SchemeError, "calibration", self.calibration, Calibration)
        require(SchemeError, "gguf_type", self.gguf_type, str, None)
        require(SchemeError, "profile", self.profile, str, None)
        require(SchemeError, "tuning", self.tuning, TuningSettings, None)
        if self.profile is not None and self.profile not in PROFILES:
            raise SchemeError(
                f"there is no profile {self.profile!r}; choose from {', '.join(PROFILES)}"
            )
        require(SchemeError, "target_bpw", self.target_bpw, int, float, None)
        # A single string would be read as a sequence of letters.
        require(SchemeError, "formats", self.formats, tuple, list)
        require(SchemeError, "tensor_types", self.tensor_types, tuple, list)
        object.__setattr__(self, "formats", tuple(self.formats))
        object.__setattr__(self, "tensor_types", tuple(self.tensor_types))

    def codecs(self, config: Phi3Config) -> Callable[[int], Codecs]:
        """Function that returns the codecs of a block's linears, given its index.

        Raises:
            SchemeError: the types don't fit the model.
        """
        if self.gguf_type is not None:
            return partial(gguf_writer.codecs, self._file_type(), config)
        schemes = self.schemes(config)
        held = all(FORMATS[name].real_offsets for name in self.formats)

        def codec(scheme: QuantScheme) -> AffineCodec:
            return AffineCodec(scheme, real_offsets=held and not scheme.symmetric)

        return lambda index: {
            key: codec(schemes.scheme(block_tensor_name(index, key))) for key in LINEARS
        }

    def schemes(self, config: Phi3Config) -> MatrixSchemes:
        """Schemes of the blocks' matrices; types of GGUF replace them.

        Raises:
            SchemeError: types of single matrices can't be parsed or don't fit the model.
        """
        overrides = () if self.gguf_type is not None else self.tensor_types
        return schemes_with_overrides(self.scheme, overrides, config)

    @property
    def possible_schemes(self) -> tuple[QuantScheme, ...]:
        """Schemes that matrices may have, before their names are known.

        Raises:
            SchemeError: types of single matrices can't be parsed.
        """
        if self.gguf_type is not None:
            return (self.scheme,)
        widths = [bits for _, bits in parse_overrides(self.tensor_types)]
        if self.target_bpw is not None:
            held = [HELD_BITS[name] for name in self.formats]
            widths += [bits for bits in _TARGET_BITS if all(bits in each for each in held)]
        return tuple(replace(self.scheme, bits=bits) for bits in {self.scheme.bits, *widths})

    def head_codec(self, config: Phi3Config) -> AffineCodec | None:
        """Codec of an output matrix whose codes are chosen by its inputs; None for other types."""
        if self.gguf_type is None or not (self.compensate and METHODS[self.method].calibrated):
            return None
        head = EMBEDDING if config.tie_word_embeddings else HEAD
        name = matrix_type(self._file_type(), head, config).name
        return AffineCodec(AFFINE[name]) if name == _COARSE else None

    def open_formats(self) -> list[Format]:
        """Formats to write, configured for this recipe.

        Raises:
            SchemeError: a method or format is unknown, or options exclude each other.
        """
        if self.method not in METHODS:
            raise SchemeError(f"there is no method {self.method!r}; choose from {list(METHODS)}")
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise SchemeError(
                f"there is no format {', '.join(unknown) or '(none given)'}; "
                f"choose from {', '.join(FORMATS)}"
            )
        if self.gguf_type is None:
            formats = {
                **FORMATS,
                onnx_writer.FORMAT.name: onnx_writer.onnx_format(self.onnx),
                mlx.LAYOUT.name: packed_format(mlx.mlx_layout(self.mlx)),
            }
            return [formats[name] for name in dict.fromkeys(self.formats)]
        if self.formats != (gguf_writer.FORMAT.name,):
            raise SchemeError(
                f"GGUF types require {gguf_writer.FORMAT.name} as the only format, "
                f"not {', '.join(self.formats)}"
            )
        return [gguf_writer.typed_format(self._file_type())]

    def check_tuning(self) -> None:
        """Refuse tuning without calibration.

        Raises:
            SchemeError: the method doesn't calibrate.
        """
        if self.tuning is not None and not METHODS[self.method].calibrated:
            raise SchemeError(
                f"{self.method} doesn't calibrate; choose awq or gptq to tune (--tune), or tune "
                "its result with phi3quant tune"
            )

    def check_target(self) -> None:
        """Refuse choices that exclude ``target_bpw``.

        Raises:
            SchemeError: there is one; the message names it.
        """
        if self.target_bpw is None:
            return
        if self.gguf_type is not None or self.tensor_types:
            raise SchemeError("choose a target for the bits per weight or types, not both")
        if self.profile is not None:
            raise SchemeError(
                f"the profile {self.profile} sets the types itself; choose it or a target for the "
                "bits per weight"
            )
        if not METHODS[self.method].calibrated:
            raise SchemeError(
                "a target for the bits per weight requires calibration, which "
                f"{self.method} doesn't use; choose awq or gptq"
            )

    @property
    def chooses_gguf_types(self) -> bool:
        """Whether ``target_bpw`` chooses among GGUF's types."""
        return self.formats == (gguf_writer.FORMAT.name,)

    def with_types(self, tensor_types: tuple[str, ...]) -> "Recipe":
        """This recipe with GGUF's types for all matrices."""
        return replace(self, gguf_type=MIXED.name, tensor_types=tensor_types)

    def with_widths(self, base: QuantScheme, tensor_types: tuple[str, ...]) -> "Recipe":
        """This recipe with other bits for single matrices."""
        return replace(self, scheme=base, tensor_types=tensor_types)

    def as_json(self, config: Phi3Config) -> dict[str, Any]:
        """Recipe as JSON values for manifests."""
        described: dict[str, Any] = {
            "method": self.method,
            "compensate": self.compensate and METHODS[self.method].calibrated,
        }
        if self.gguf_type is not None:
            described |= {
                "gguf_type": self.gguf_type.upper(),
                "tensor_types": list(self.tensor_types),
            }
        else:
            described |= {
                "bits": self.scheme.bits,
                "group_size": self.scheme.group_size,
                "symmetric": self.scheme.symmetric,
                **({"tensor_types": list(self.tensor_types)} if self.tensor_types else {}),
            }
        if self.target_bpw is not None:
            described["target_bpw"] = self.target_bpw
        if self.tuning is not None:
            described["tuning"] = self.tuning.as_json()
        if self.profile is not None:
            described["profile"] = self.profile
        described["formats"] = list(self.formats)
        if self.gguf_type is None and onnx_writer.FORMAT.name in self.formats:
            described["onnx"] = self.onnx.settled(config, coded=True).as_json()
        if mlx.LAYOUT.name in self.formats:
            described["mlx"] = self.mlx.settled(config).as_json()
        return described

    def _file_type(self) -> FileType:
        """Types of a GGUF file, for a recipe with ``gguf_type``."""
        calibrated = METHODS[self.method].calibrated
        kind = file_type(str(self.gguf_type), self.tensor_types, calibrated=calibrated)
        return kind if self.profile is None else replace(kind, limits=PROFILES[self.profile].limits)

    def __str__(self) -> str:
        if self.target_bpw is not None:
            return f"{self.target_bpw:g} bits a weight"
        if self.gguf_type is not None:
            return self.gguf_type.upper()
        return ", ".join([str(self.scheme), *self.tensor_types])
