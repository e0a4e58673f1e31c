"""``phi3quant export``."""

from dataclasses import dataclass, replace
from pathlib import Path

import click

from converters import LAYOUTS
from converters.gguf import writer as gguf_writer
from converters.gguf.type_policy import FILE_TYPES, FileType, file_type
from converters.onnx import writer as onnx_writer
from converters.packed.layout import PackedLayout
from converters.plain import FLOAT_TYPES
from phi3quant.cli import options, values
from phi3quant.cli.export_mlx import mlx
from phi3quant.cli.export_run import Target, run_export, target_options
from phi3quant.cli.help_sections import SectionedCommand
from phi3quant.cli.options import OnnxLayout, Running
from phi3quant.cli.scored_text import SCORED_TEXT
from phi3quant.cli.written_files import note_slow_type
from phi3quant.evaluation.evaluate import EvaluationText
from phi3quant.progress import Progress
from phi3quant.run.artifacts import Artifacts
from phi3quant.run.draft import Judge
from phi3quant.run.export import (
    export_gguf,
    export_onnx,
    export_packed,
    export_safetensors,
)
from phi3quant.run.profiles import PROFILES, Profile
from phi3quant.source.locate import Located


@dataclass(frozen=True)
class _GgufOptions:
    """Types and parts of a GGUF file."""

    profile: str | None
    gguf_type: str | None
    tensor_types: tuple[str, ...]
    part_size: int | None
    imatrix: Path | None
    context: int | None


_CONTEXT = click.option(
    "--context",
    type=click.IntRange(1),
    metavar="TOKENS",
    help="Fixed length of context; of LongRoPE, only the factors for it are stored.  "
    "[default: the model's own]",
)

_GGUF = options.group(
    "wanted",
    _GgufOptions,
    options.PROFILE,
    click.option(
        "--type",
        "gguf_type",
        type=values.Name("GGUF type", FILE_TYPES),
        help=f"Type of the file: {', '.join(FILE_TYPES)}.  [default: the type that stores "
        "MODEL's codes unchanged; F16 for a checkpoint]",
    ),
    options.TENSOR_TYPES,
    click.option(
        "--split-size",
        "part_size",
        type=values.Size(),
        help="Largest size of a file, such as 2GB; the rest goes to further files.",
    ),
    click.option(
        "--imatrix",
        type=click.Path(path_type=Path),
        help="Importance matrix of phi3quant imatrix or llama-imatrix for a plain checkpoint.",
    ),
    _CONTEXT,
)


@click.group()
def export() -> None:
    """Write a model, quantized or not, in another format.

    \b
    phi3quant export gguf phi3-4bit
    phi3quant export onnx phi3-4bit
    phi3quant export gptq phi3-4bit
    """


@export.command(cls=SectionedCommand, short_help="Write a GGUF file for llama.cpp and its apps.")
@options.MODEL
@_GGUF
@target_options("MODEL-TYPE")
@SCORED_TEXT
@options.RUNNING
def gguf(
    model: str | None,
    wanted: _GgufOptions,
    target: Target,
    text: EvaluationText,
    running: Running,
) -> None:
    """Write MODEL as a GGUF file for llama.cpp and its apps, and score it against MODEL.

    \b
    phi3quant export gguf phi3-4bit
    phi3quant export gguf ./Phi-3-mini-4k-instruct --type q4_k_m -o out
    phi3quant export gguf ./my-finetune --type q4_0 --tensor-type ffn_down=q5_0
    phi3quant export gguf ./my-finetune --type q4_k_m --imatrix i.gguf -o out
    phi3quant export gguf ./my-finetune --profile adreno -o out
    phi3quant export gguf ./my-finetune --type f16 --split-size 2GB -o out

    The first example keeps the codes of a quantized model: Q4_0 for awq's defaults.
    MODEL is a model of any format or a hub id; the default is the bundled phi3-tiny.
    """
    kind = _file_type(wanted)

    def write(model: Located, output: Path, judge: Judge | None, progress: Progress) -> Artifacts:
        return export_gguf(
            model,
            output,
            kind=kind,
            split_bytes=wanted.part_size,
            requantize=target.requantize,
            imatrix=wanted.imatrix,
            context=wanted.context,
            overwrite=target.overwrite,
            progress=progress,
            judge=judge,
        )

    name = (wanted.gguf_type or wanted.profile or "gguf").lower()
    output = run_export(write, model, name, target, text, running)
    if not (running.quiet or running.as_json):
        note_slow_type(output)


def _profile_for(name: str, kind: str) -> Profile:
    profile = PROFILES[name]
    if profile.format != kind:
        raise click.UsageError(
            f"The profile {name} is for {profile.format}: phi3quant export {profile.format}."
        )
    return profile


def _file_type(wanted: _GgufOptions) -> FileType | None:
    if wanted.profile is not None:
        profile = _profile_for(wanted.profile, gguf_writer.FORMAT.name)
        return profile.file_type(wanted.gguf_type, wanted.tensor_types)
    if wanted.tensor_types and not wanted.gguf_type:
        raise click.UsageError("--tensor-type requires --type.")
    return file_type(wanted.gguf_type, wanted.tensor_types) if wanted.gguf_type else None


@export.command(cls=SectionedCommand, short_help="Write an ONNX folder for onnxruntime-genai.")
@options.MODEL
@options.PROFILE
@options.ONNX_LAYOUT
@_CONTEXT
@target_options("MODEL-onnx")
@SCORED_TEXT
@options.RUNNING
def onnx(
    model: str | None,
    profile: str | None,
    layout: OnnxLayout,
    context: int | None,
    target: Target,
    text: EvaluationText,
    running: Running,
) -> None:
    """Write MODEL as an ONNX folder for onnxruntime and onnxruntime-genai, and score it.

    \b
    phi3quant export onnx phi3-4bit
    phi3quant export onnx phi3-4bit --embedding int4 --split-size 2GB -o out
    phi3quant export onnx phi3-4bit --opset 14 -o out    for older mobile runtimes
    phi3quant export onnx ./my-finetune -o out           not quantized, to compare

    MODEL is a model of any format or a hub id; the default is the bundled phi3-tiny.
    """
    chosen = layout.options()
    if profile is not None:
        base = _profile_for(profile, onnx_writer.FORMAT.name).onnx
        chosen = replace(base, **layout.chosen)

    def write(model: Located, output: Path, judge: Judge | None, progress: Progress) -> Artifacts:
        return export_onnx(
            model,
            output,
            options=chosen,
            requantize=target.requantize,
            context=context,
            overwrite=target.overwrite,
            progress=progress,
            judge=judge,
        )

    run_export(write, model, "onnx", target, text, running)


@export.command(cls=SectionedCommand, short_help="Write a plain checkpoint.")
@options.MODEL
@click.option(
    "--dtype",
    type=values.Name("dtype", FLOAT_TYPES),
    default=next(iter(FLOAT_TYPES)),
    show_default=True,
    help="Type of the weights.",
)
@target_options("MODEL-safetensors", codes=False)
@SCORED_TEXT
@options.RUNNING
def safetensors(
    model: str | None, dtype: str, target: Target, text: EvaluationText, running: Running
) -> None:
    """Write MODEL as a plain checkpoint, dequantized or with adapters merged, and score it.

    \b
    phi3quant export safetensors phi3-4bit
    phi3quant export safetensors ./their-gptq --dtype bf16 -o out
    phi3quant export safetensors ./my-finetune --adapter ./my-lora -o merged

    MODEL is a model of any format or a hub id; the default is the bundled phi3-tiny.
    """

    def write(model: Located, output: Path, judge: Judge | None, progress: Progress) -> Artifacts:
        return export_safetensors(
            model,
            output,
            dtype=dtype,
            overwrite=target.overwrite,
            progress=progress,
            judge=judge,
        )

    run_export(write, model, "safetensors", target, text, running)


def _packed_command(layout: PackedLayout) -> click.Command:
    """Command that writes a layout of packed folders."""

    @click.command(
        layout.name,
        cls=SectionedCommand,
        short_help=f"Write a folder in the layout {layout.title}.",
        help=f"""Write MODEL, which must be quantized, in the layout {layout.title}, and score it.

        \b
        phi3quant export {layout.name} phi3-4bit
        phi3quant export {layout.name} ./their-Q4_0.gguf -o out
        phi3quant export {layout.name} ./their-Q4_K_M.gguf --requantize

        Codes, scales and zero points stay the same; other codes than int4 and int8 in groups are
        refused, or rounded to int4 in groups of 32 by --requantize. MODEL is a model of any format
        or a hub id.
        """,
    )
    @options.MODEL
    @target_options(f"MODEL-{layout.name}")
    @SCORED_TEXT
    @options.RUNNING
    def packed(
        model: str | None,
        target: Target,
        text: EvaluationText,
        running: Running,
    ) -> None:
        def write(
            model: Located, output: Path, judge: Judge | None, progress: Progress
        ) -> Artifacts:
            return export_packed(
                model,
                output,
                layout=layout.name,
                requantize=target.requantize,
                overwrite=target.overwrite,
                progress=progress,
                judge=judge,
            )

        run_export(write, model, layout.name, target, text, running)

    return packed


export.add_command(mlx)
for _layout in LAYOUTS.values():
    if _layout.name not in export.commands:
        export.add_command(_packed_command(_layout))
