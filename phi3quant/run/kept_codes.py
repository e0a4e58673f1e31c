"""Codes that an export keeps, and those that it may round a second time."""

from collections.abc import Callable
from dataclasses import replace

from converters.gguf import sizes as gguf_sizes
from converters.gguf.names import gguf_name
from converters.gguf.type_policy import FileType, file_type
from converters.parts import requantized
from phi3quant.errors import SchemeError
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.export_source import ExportSource

PLAIN_TYPE = "F16"
"""Default type for a checkpoint that is not quantized."""


def default_type(source: ExportSource) -> FileType:
    """Types that hold a model's codes, or PLAIN_TYPE for a plain model.

    Raises:
        SchemeError: no types hold the codes.
    """
    source.parts.check_codes(real_offsets=True)
    schemes = source.parts.schemes
    # Codes with zero points may in fact be symmetric, but the layout doesn't record that.
    return file_type(PLAIN_TYPE) if schemes is None else gguf_sizes.natural_type(schemes)


def check_types(source: ExportSource, kind: FileType) -> None:
    """Refuse types that would round codes a second time.

    Raises:
        SchemeError: there is such a type.
    """
    parts, config = source.parts, source.config
    if not parts.quantized:
        return
    for name, entry in gguf_sizes.linear_types(kind, config).items():
        if entry.name in gguf_sizes.FLOATS:
            continue
        parts.check_codes(real_offsets=True)
        assert parts.schemes is not None
        scheme = parts.schemes.scheme(name)
        if not gguf_sizes.holds(entry.name, scheme):
            raise SchemeError(
                f"{source.opened.name} has {scheme} codes, which {entry.name} ({gguf_name(name)}) "
                "would round a second time; leave out --type to keep them, or add --requantize"
            )


def with_fitting_codes(
    source: ExportSource,
    check: Callable[[MatrixSchemes | None], None],
    *,
    requantize: bool,
    real_offsets: bool = False,
) -> ExportSource:
    """The model with codes that pass ``check``, rounded a second time only if that is wanted.

    Args:
        source: the model.
        check: raises SchemeError for schemes that the target can't hold.
        requantize: whether codes may be rounded a second time.
        real_offsets: whether the target stores offsets in place of zero points.

    Raises:
        SchemeError: its codes don't pass.
    """
    try:
        source.parts.check_codes(real_offsets=real_offsets)
        check(source.parts.schemes)
    except SchemeError:
        scheme = QuantScheme()
        if not requantize or not source.parts.quantized:
            raise
        check(MatrixSchemes(scheme))
        return replace(source, parts=requantized(source.parts, scheme))
    return source
