"""Codes that an export keeps, and those that it may round a second time."""

from collections.abc import Callable
from dataclasses import replace

from converters.gguf import sizes as gguf_sizes
from converters.gguf.type_policy import FileType, file_type
from converters.parts import requantized
from phi3quant.errors import SchemeError
from phi3quant.quant.scheme import QuantScheme
from phi3quant.run.export_source import ExportSource

PLAIN_TYPE = "F16"
"""Default type for a checkpoint that is not quantized."""


def default_type(source: ExportSource) -> FileType:
    """Type that holds a model's codes, or PLAIN_TYPE for a plain model.

    Raises:
        SchemeError: no single type holds the codes.
    """
    source.parts.check_codes(real_offsets=True)
    scheme = source.parts.scheme
    # Codes with zero points may in fact be symmetric, but the layout doesn't record that.
    return file_type(PLAIN_TYPE) if scheme is None else gguf_sizes.natural_type(scheme)


def check_types(source: ExportSource, kind: FileType) -> None:
    """Refuse types that would round codes a second time.

    Raises:
        SchemeError: there is such a type.
    """
    parts, config = source.parts, source.config
    if not parts.quantized:
        return
    for key, (entry, _) in gguf_sizes.linear_types(kind, config).items():
        if entry.name in gguf_sizes.FLOATS:
            continue
        parts.check_codes(real_offsets=True)
        assert parts.scheme is not None
        if not gguf_sizes.holds(entry.name, parts.scheme):
            raise SchemeError(
                f"{source.opened.name} has {parts.scheme} codes, which {entry.name} ({key}) would "
                "round a second time; leave out --type to keep them, or add --requantize"
            )


def with_fitting_codes(
    source: ExportSource,
    check: Callable[[QuantScheme | None], None],
    *,
    requantize: bool,
) -> ExportSource:
    """The model with codes that pass ``check``, rounded a second time only if that is wanted.

    Raises:
        SchemeError: its codes don't pass.
    """
    try:
        source.parts.check_codes()
        check(source.parts.scheme)
    except SchemeError:
        scheme = QuantScheme()
        if not requantize or not source.parts.quantized:
            raise
        check(scheme)
        return replace(source, parts=requantized(source.parts, scheme))
    return source
