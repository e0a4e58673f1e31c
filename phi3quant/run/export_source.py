"""The model that an export reads, and what its formats need of it: a folder with its files."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from converters import parts_of
from converters.companions import check_companions
from converters.format import Source
from converters.gguf.checkpoint_files import write_checkpoint_files
from converters.gguf.reader import GgufCheckpoint
from converters.onnx.reader import OnnxModel
from converters.parts import Parts
from phi3quant.disk.output import check_not_inside
from phi3quant.model.config import Phi3Config
from phi3quant.model.config_file import read_config
from phi3quant.model.fixed_context import fixed_context
from phi3quant.provenance import manifest
from phi3quant.provenance.sealing import open_artifact
from phi3quant.source.checkpoint import SafetensorsModel
from phi3quant.source.locate import GGUF_SUFFIX, Model, locate
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredWeights


@dataclass(frozen=True)
class ExportSource:
    """A model to export.

    Attributes:
        opened: the model, with its tokenizer and manifest.
        parts: its stored weights.
        context: fixed length of context of the output in tokens; None for the model's own.
    """

    opened: OpenedModel[StoredWeights | OnnxModel]
    parts: Parts
    context: int | None = None

    @property
    def config(self) -> Phi3Config:
        """Configuration of the output."""
        return self._at_context(self.opened.config)

    @property
    def name(self) -> str:
        """Name of the checkpoint that it was quantized from, if recorded; otherwise its own."""
        origin = self.opened.manifest.get("source")
        recorded = origin.get("name") if isinstance(origin, Mapping) else None
        return str(recorded or self.opened.name.removesuffix(GGUF_SUFFIX))

    @property
    def files(self) -> list[Path]:
        """All files that it consists of."""
        model, located = self.opened.model, self.opened.located
        if isinstance(model, GgufCheckpoint):
            return list(model.files)
        return manifest.source_files(located, model.files)

    def check_output(self, output: Path) -> None:
        """Refuse an output that lies inside the model or around it, and unfit companions.

        Raises:
            OutputError: one lies in the other.
            CheckpointError: as check_companions.
        """
        check_not_inside(output, self.opened.path)
        if not isinstance(self.opened.model, GgufCheckpoint):
            check_companions(self.opened.folder)

    @contextmanager
    def with_files(self) -> Iterator[Source]:
        """The model as writers need it: with its proper name, and a folder that has its files.

        The metadata of a GGUF file becomes files in a temporary folder.

        Raises:
            TokenizerError: a GGUF file has no tokenizer.
        """
        located, model = replace(self.opened.located, name=self.name), self.opened.model
        assert isinstance(model, SafetensorsModel | GgufCheckpoint | OnnxModel)
        with ExitStack() as stack:
            config = model.config
            if isinstance(model, GgufCheckpoint):
                folder = Path(stack.enter_context(TemporaryDirectory(prefix="phi3quant-")))
                write_checkpoint_files(model, folder)
                located, config = replace(located, path=folder), read_config(folder)
            settled = replace(model, config=self._at_context(config))
            yield replace(self.opened, located=located, model=settled)

    def _at_context(self, config: Phi3Config) -> Phi3Config:
        return config if self.context is None else fixed_context(config, self.context)


def open_source(model: Model, revision: str | None = None) -> ExportSource:
    """Open a model of any format to export.

    Args:
        model: see locate.
        revision: revision of a hub id.

    Raises:
        Phi3QuantError: it can't be read, or an ONNX graph computes something else than Phi-3.
    """
    opened = open_artifact(locate(model, revision))
    return ExportSource(opened, parts_of(opened.model))
