"""A model of any format, opened: the one reference to it that a command passes on."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from phi3quant.model.config import Phi3Config
from phi3quant.source.locate import Located
from phi3quant.source.stored_model import StoredModel
from phi3quant.source.tokenizer import Tokenizer

M_co = TypeVar("M_co", bound=StoredModel, covariant=True)

# Control characters, and path separators of any system.
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_LONGEST = 100
_LAYOUT = ("formats", "onnx")
"""Parts of a recipe that decide how codes are stored, not which."""


@dataclass(frozen=True, eq=False)
class OpenedModel(Generic[M_co]):
    """A model on disk, with its tokenizer and manifest; each file is read once.

    Attributes:
        located: path and name.
        model: its weights, or the runtime's session.
        manifest: its record of how it was made; empty if it has none.
        read_tokenizer: called when the tokenizer is first needed.
    """

    located: Located
    model: M_co
    manifest: Mapping[str, Any]
    read_tokenizer: Callable[[], Tokenizer]

    @property
    def path(self) -> Path:
        """Folder or file."""
        return self.located.path

    @property
    def folder(self) -> Path:
        """Folder with the tokenizer and generation files."""
        return self.located.folder

    @property
    def name(self) -> str:
        """Name for people, such as a hub id or the folder's last part."""
        return self.located.name

    @property
    def stem(self) -> str:
        """Last part of the name, fit for file names; it may come from a manifest."""
        last = _UNFIT.sub("_", self.name.split("/")[-1])[:_LONGEST]
        return last if last.strip(".") else "model"

    @property
    def config(self) -> Phi3Config:
        """Configuration of the model."""
        return self.model.config

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer of the model.

        Raises:
            TokenizerError: there is none that can be read.
            MissingExtraError: it needs a library that isn't installed.
        """
        return self.read_tokenizer()

    @property
    def recipe(self) -> dict[str, Any]:
        """Choices that decided the codes, in whatever format they are; empty if not recorded."""
        recorded = _object(self.manifest.get("recipe"))
        decided = _object(recorded.get("quantized_by")) or recorded
        return {key: value for key, value in decided.items() if key not in _LAYOUT}

    @property
    def source(self) -> Mapping[str, Any]:
        """Name and hashes of the checkpoint that was quantized; empty if not recorded."""
        recipe = _object(self.manifest.get("recipe"))
        return _object(recipe.get("quantized_from")) or _object(self.manifest.get("source"))


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
