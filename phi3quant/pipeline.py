"""From a checkpoint to a quantized folder: the only file that knows all the parts."""

import platform
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from calib.corpus import load_corpus, render, suitable
from converters import FORMATS, open_weights, to_gguf, to_onnx
from converters.companions import check_companions
from converters.gguf_policy import MIXED, file_type
from converters.onnx_options import OnnxOptions
from converters.writer import Format, Source
from phi3quant import budget, manifest, mixing, preflight, windows
from phi3quant.blockwise import Work, quantize_blocks
from phi3quant.checkpoint import Checkpoint
from phi3quant.codecs import Codecs
from phi3quant.codecs.affine import AffineCodec
from phi3quant.config import Phi3Config
from phi3quant.draft import Judge, draft_of, publish
from phi3quant.errors import CheckpointError, CorpusError, SchemeError
from phi3quant.hub import Located, locate
from phi3quant.journal import Journal, open_journal
from phi3quant.layout import LINEARS
from phi3quant.methods import METHODS
from phi3quant.output import check_not_inside
from phi3quant.precision import product_dtype
from phi3quant.progress import Progress, silent
from phi3quant.scheme import QuantScheme
from phi3quant.tokenizer import load_tokenizer, require_rows
from phi3quant.workspace import check_output


@dataclass(frozen=True)
class Calibration:
    """What text a method learns from.

    Attributes:
        source: as calib.corpus.load_corpus takes it; None: the bundled corpus that suits the model.
        field: the field of each record that holds the text.
        samples: windows at most.
        length: tokens in a window.
        seed: of the choice of windows.
    """

    source: str | Path | None = None
    field: str | None = None
    samples: int = 64
    length: int = 512
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out.

    Attributes:
        method: a key of phi3quant.methods.METHODS.
        scheme: bits, group size, symmetry.
        formats: keys of converters.FORMATS; the first is the output folder itself, further ones
            are folders in it.
        calibration: for methods that calibrate.
        compensate: whether later codes make up for the errors of earlier ones, and for what the
            blocks before have lost, where that pays.
        gguf_type: a key of converters.gguf_policy.FILE_TYPES, in any case: codes are chosen for the
            types that it gives each matrix, in place of the scheme. Only with ``gguf`` alone.
        tensor_types: changes to gguf_type, as converters.gguf_policy.file_type takes them.
        target_bpw: bits a weight that a GGUF file may take, all of it counted: types are chosen
            matrix by matrix, by measured loss. In place of gguf_type and tensor_types.
        onnx: how ``onnx`` among the formats is laid out.
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

    @property
    def calibrated(self) -> budget.Calibrated | None:
        """Sizes of what is learned from; None for a method without calibration."""
        if not METHODS[self.method].calibrated:
            return None
        text = self.calibration
        return budget.Calibrated(text.samples, text.length, self.compensate)

    def codecs(self, config: Phi3Config, index: int) -> Codecs:
        """How each linear of block ``index`` is stored.

        Raises:
            SchemeError: the types don't fit the model's rows.
        """
        if self.gguf_type is None:
            return dict.fromkeys(LINEARS, AffineCodec(self.scheme))
        return to_gguf.codecs(file_type(self.gguf_type, self.tensor_types), config, index)

    def __str__(self) -> str:
        if self.target_bpw is not None:
            return f"{self.target_bpw:g} bits a weight"
        return self.gguf_type.upper() if self.gguf_type else str(self.scheme)


@dataclass(frozen=True)
class Conduct:
    """How a run is carried out; nothing here changes a weight.

    Attributes:
        resume: go on after the blocks that an earlier run for the same output finished.
        max_memory: bytes that may be resident; None: what the system has available.
        say: is told what a person should know, a line at a time.
        judge: scores the result before it takes its place; None: it is not verified.
    """

    resume: bool = False
    max_memory: int | None = None
    say: Callable[[str], None] = lambda _line: None
    judge: Judge | None = None


@dataclass(frozen=True)
class Quantized:
    """What ``quantize`` made.

    Attributes:
        source: the model it was made from.
        folders: one for each format, by the format's name.
        calibration: text, hashes and number of windows; None for a method without calibration.
        blocks: per block, output errors and whether it fell back to RTN.
    """

    source: Located
    folders: Mapping[str, Path]
    calibration: Mapping[str, Any] | None
    blocks: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class _Windows:
    """Calibration windows, int64 [windows, length], and where they came from."""

    ids: torch.Tensor
    description: Mapping[str, Any]


def quantize(
    model: str | Path | None,
    output: Path,
    recipe: Recipe,
    *,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    conduct: Conduct | None = None,
) -> Quantized:
    """Quantize a checkpoint into a new folder, one block in memory at a time.

    With a method that calibrates, finished blocks are kept beside ``output`` until it is whole, and
    an exception that ends the run says how to go on after them.

    Args:
        model: a folder, a hub id, or None for the bundled phi3-tiny.
        output: the folder to make; it appears when everything in it is whole.
        recipe: method, scheme, formats and calibration.
        revision: of a hub id.
        overwrite: replace ``output`` if phi3quant made it.
        progress: is told of the stages.
        conduct: how to go about it.

    Raises:
        Phi3QuantError: see phi3quant.errors; nothing is left at ``output``.

    Examples:
        >>> import tempfile
        >>> recipe = Recipe("rtn", QuantScheme(bits=4, group_size=64))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = quantize("phi3-tiny", Path(folder) / "out", recipe)
        ...     (made.folders["compressed-tensors"] / "model.safetensors").is_file()
        True
    """
    located = locate(model, revision)
    checkpoint = _open_plain(located.path)
    config, method, conduct = checkpoint.config, METHODS[recipe.method], conduct or Conduct()
    if recipe.target_bpw is not None:
        _check_target(recipe, config)
    formats = _formats(recipe)
    for entry in formats:
        entry.check(recipe.scheme, config)
    check_output(output, overwrite=overwrite)
    check_not_inside(output, located.folder)
    check_companions(located.folder)
    if conduct.judge is not None:
        conduct.judge.prepare(located, config)
    size = sum(entry.nbytes(config, recipe.scheme) for entry in formats)
    in_memory = preflight.check(
        config, recipe.calibrated, (output, size), conduct.max_memory, conduct.say
    )
    files = manifest.source_files(located, checkpoint.store.files)
    stamps = manifest.stamps(files)
    with (
        open_journal(output, overwrite=overwrite) as (workspace, journal),
        ThreadPoolExecutor(1) as aside,
    ):
        goes_on = conduct.resume and method.calibrated
        if not (goes_on or overwrite):
            journal.refuse_to_forget()
        text = (
            _calibration_windows(located, config, recipe.calibration) if method.calibrated else None
        )
        if recipe.target_bpw is not None:
            assert text is not None
            types = mixing.mixed_types(
                checkpoint,
                text.ids,
                recipe.target_bpw,
                progress,
                compensate=recipe.compensate,
            )
            recipe = replace(recipe, gguf_type=MIXED.name, tensor_types=types)
            formats = _formats(recipe)
        calibration = text.description if text else None
        stated = _describe(recipe, config)
        # Hashing reads what is quantized meanwhile, and keeps to one thread.
        source = aside.submit(manifest.describe_source, located, files)
        if method.calibrated:
            with progress("hashing the source", 1) as step:
                made_from = {"recipe": stated, "calibration": calibration, **source.result()}
                step()
            _settle(journal, conduct, made_from)
        elif conduct.resume:
            conduct.say(f"{method.title} is too quick to keep blocks; starting at the first")
        work = Work(
            method,
            lambda index: recipe.codecs(config, index),
            recipe.compensate,
            text.ids if text else None,
            in_memory,
        )
        draft = draft_of(workspace, located, [entry.name for entry in formats])
        original = Source(located.folder, located.name, config)
        with ExitStack() as open_writers:
            writers = {
                entry.name: open_writers.enter_context(
                    entry.open(draft.folders[entry.name], original, recipe.scheme)
                )
                for entry in formats
            }
            blocks = quantize_blocks(
                checkpoint,
                work,
                list(writers.values()),
                progress,
                journal if method.calibrated else None,
            )
        described = {
            name: manifest.describe(name, source.result(), stated, calibration, blocks)
            for name in draft.folders
        }
        manifest.check_unchanged(stamps)
        hashed = {name: writer.hashed for name, writer in writers.items()}
        publish(workspace, draft, described, hashed, conduct.judge)
    return Quantized(located, draft.places, calibration, blocks)


def _settle(journal: Journal, conduct: Conduct, made_from: Mapping[str, Any]) -> None:
    """Make a journal ready for a run: with the finished blocks of the same run, or empty."""
    identity = {
        **made_from,
        "tools": manifest.describe_tools(),
        "threads": torch.get_num_threads(),
        "products": str(product_dtype()),
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }
    if conduct.resume and journal.finished:
        journal.check(identity)
        conduct.say(f"going on after {journal.finished} finished blocks")
        return
    if conduct.resume:
        conduct.say(f"no finished blocks for {journal.output} are there; starting at the first")
    journal.begin(identity)


def _open_plain(folder: Path) -> Checkpoint:
    opened = open_weights(folder)
    if not isinstance(opened, Checkpoint):
        raise CheckpointError(
            f"{folder} is quantized already ({opened.format}); give the original checkpoint"
        )
    return opened


def _formats(recipe: Recipe) -> list[Format]:
    if recipe.method not in METHODS:
        raise SchemeError(f"there is no method {recipe.method!r}; choose from {list(METHODS)}")
    unknown = [name for name in recipe.formats if name not in FORMATS]
    if unknown or not recipe.formats:
        raise SchemeError(
            f"there is no format {', '.join(unknown) or '(none given)'}; "
            f"choose from {', '.join(FORMATS)}"
        )
    if recipe.gguf_type is None:
        if recipe.tensor_types:
            raise SchemeError("types of single tensors go with a GGUF type, and none is given")
        known = {**FORMATS, to_onnx.FORMAT.name: to_onnx.onnx_format(recipe.onnx)}
        return [known[name] for name in dict.fromkeys(recipe.formats)]
    if recipe.formats != (to_gguf.FORMAT.name,):
        raise SchemeError(
            f"GGUF types go with the format {to_gguf.FORMAT.name} alone, "
            f"not with {', '.join(recipe.formats)}"
        )
    return [to_gguf.typed_format(file_type(recipe.gguf_type, recipe.tensor_types))]


def _check_target(recipe: Recipe, config: Phi3Config) -> None:
    assert recipe.target_bpw is not None
    if recipe.formats != (to_gguf.FORMAT.name,):
        raise SchemeError(
            "a target for the bits a weight chooses among GGUF's types; it goes with the format "
            f"{to_gguf.FORMAT.name} alone, not with {', '.join(recipe.formats)}"
        )
    if recipe.gguf_type is not None or recipe.tensor_types:
        raise SchemeError("give either a target for the bits a weight or GGUF types, not both")
    if not METHODS[recipe.method].calibrated:
        raise SchemeError(
            "a target for the bits a weight is measured on calibration text, which "
            f"{recipe.method} doesn't read; use awq or gptq"
        )
    mixing.check_target(config, recipe.target_bpw)


def _calibration_windows(
    located: Located, config: Phi3Config, calibration: Calibration
) -> _Windows:
    if calibration.samples < 1:
        raise CorpusError(f"{calibration.samples} calibration windows are too few; at least 1")
    tokenizer = load_tokenizer(located.folder)
    source = suitable(tokenizer) if calibration.source is None else calibration.source
    corpus = load_corpus(source, "calibration", calibration.field)
    ids = tokenizer.encode_long(render(corpus, tokenizer))
    everything = windows.cut_windows(ids, calibration.length, f"the calibration text {source}")
    sample = windows.sample_windows(everything, calibration.samples, calibration.seed)
    chosen = windows.shuffled_by_content(sample)
    require_rows(tokenizer, chosen.numpy(), config.vocab_size)
    description = {
        **corpus.as_json(),
        "windows": len(chosen),
        "window_tokens": calibration.length,
        "seed": calibration.seed,
        "tokens_sha256": windows.digest(chosen),
    }
    return _Windows(chosen, description)


def _describe(recipe: Recipe, config: Phi3Config) -> dict[str, Any]:
    if recipe.gguf_type is not None:
        kind = recipe.gguf_type.upper()
        return {
            "method": recipe.method,
            "compensate": recipe.compensate and METHODS[recipe.method].calibrated,
            "gguf_type": kind,
            "tensor_types": list(recipe.tensor_types),
            **({} if recipe.target_bpw is None else {"target_bpw": recipe.target_bpw}),
            "formats": list(recipe.formats),
        }
    described = {
        "method": recipe.method,
        "compensate": recipe.compensate and METHODS[recipe.method].calibrated,
        "bits": recipe.scheme.bits,
        "group_size": recipe.scheme.group_size,
        "symmetric": recipe.scheme.symmetric,
        "formats": list(recipe.formats),
    }
    if to_onnx.FORMAT.name in recipe.formats:
        described["onnx"] = recipe.onnx.settled(config, recipe.scheme).as_json()
    return described
