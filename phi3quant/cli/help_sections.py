"""Options of long help texts, in sections."""

from collections.abc import Mapping

import click

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Codes": (
        *("preset", "profile", "method", "bits", "group_size", "symmetric", "tensor_types"),
        *("target_bpw", "compensate"),
    ),
    "Calibration": ("calib", "calib_field", "samples", "seq_len", "seed", "process_output"),
    "Tuning": ("reference", "tune", "tune_windows", "tune_passes"),
    "Format": ("formats", "kind", "dtype", "requantize"),
    "GGUF": ("gguf_type", "part_size", "imatrix", "context"),
    "ONNX and MLX": ("embedding", "head"),
    "ONNX": ("accuracy_level", "opset", "io", "split_size"),
    "Memory and devices": ("contexts", "kv_type", "devices", "memory", "bandwidth"),
    "Output": ("output", "overwrite", "resume", "everything", "tensors"),
    "Verification": (
        *("no_verify", "max_ppl_increase", "source", "field", "length", "max_tokens"),
    ),
}
"""Names of options by the title of their section."""

_TITLES = {name: title for title, names in SECTIONS.items() for name in names}
_OTHERS = "Other options"


class SectionedCommand(click.Command):
    """A command whose help text lists its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group of options, and the rest at the end."""
        records: dict[str, list[tuple[str, str]]] = {title: [] for title in (*SECTIONS, _OTHERS)}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                records[_TITLES.get(str(param.name), _OTHERS)].append(record)
        for title, options in records.items():
            if options:
                with formatter.section(title):
                    formatter.write_dl(options)
