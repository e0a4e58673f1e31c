"""The audited model with everything that its files state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from converters.gguf.reader import GgufCheckpoint
from phi3quant.auditing.card.card import CARD, Card, read_beginning, read_card
from phi3quant.auditing.card.facts import Fact, facts
from phi3quant.auditing.finding import quoted
from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.errors import InputError
from phi3quant.evaluation.evaluate import Artifact
from phi3quant.gating.baseline import Baseline
from phi3quant.model.config import Phi3Config
from phi3quant.notices import notify
from phi3quant.provenance.integrity import FileCheck
from phi3quant.source.weight_files import INDEX_FILE, SINGLE_FILE

_LICENCES = ("LICENSE*", "LICENCE*", "COPYING*")
_MOST_LICENCES = 8
_MESSAGE = 200


@dataclass(frozen=True)
class Statement:
    """A value that a file states, with its place."""

    place: str
    value: str


@dataclass(frozen=True)
class Subject:
    """A model under audit.

    Attributes:
        opened: model with tokenizer and manifest.
        card: its README.md; None if there is none.
        licences: texts of licence files, by file name.
        hashes: SHA-256 of its weight files, by file name; empty if they weren't computed.
        checks: comparisons of its files with recorded hashes; None if none are recorded.
        baseline: earlier recording to compare with.
        answer: its answer to the question who it is; None if it wasn't asked.
    """

    opened: Artifact
    card: Card | None
    licences: Mapping[str, str]
    hashes: Mapping[str, str] = field(default_factory=dict)
    checks: Sequence[FileCheck] | None = None
    baseline: Baseline | None = None
    answer: str | None = None

    @property
    def config(self) -> Phi3Config:
        """Configuration of the model."""
        return self.opened.config

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Keys of a GGUF file; empty for other formats."""
        model = self.opened.model
        return model.model.fields if isinstance(model, GgufCheckpoint) else {}

    @property
    def config_place(self) -> str:
        """File that holds the configuration."""
        return "GGUF metadata" if self.metadata else "config.json"

    @cached_property
    def facts(self) -> Sequence[Fact]:
        """Labelled values of the card."""
        return facts(self.card) if self.card else ()

    def labelled(self, *labels: str) -> list[Fact]:
        """Facts of the card under one of these labels."""
        return [fact for fact in self.facts if fact.label in labels]

    def message(self, error: Exception) -> str:
        """Message of an error, without the path of the model's folder."""
        return quoted(str(error).replace(f"{self.opened.folder}/", ""), _MESSAGE)

    def stated(self, card_key: str, *metadata_keys: str) -> list[Statement]:
        """Texts under a key of the card's front matter and under keys of a GGUF file."""
        values = self.card.stated(card_key) if self.card else ()
        statements = [Statement(f"README.md {card_key}", value) for value in values]
        for key in metadata_keys:
            entry = self.metadata.get(key)
            texts = entry if isinstance(entry, list) else [entry]
            statements += [Statement(key, text) for text in texts if isinstance(text, str) and text]
        return statements

    def manifest(self, key: str) -> Mapping[str, Any]:
        """An object of the manifest; empty if it is missing."""
        return mapping(self.opened.manifest.get(key))

    @cached_property
    def index(self) -> Mapping[str, Any]:
        """Metadata of the index of shards; empty if the weights are read without it."""
        if any(path.name == SINGLE_FILE for path in self.opened.model.files):
            return {}
        return mapping(self.json_file(INDEX_FILE).get("metadata"))

    def json_file(self, name: str) -> Mapping[str, Any]:
        """An object in a JSON file of the model's folder; empty if it can't be read."""
        if self.metadata:
            return {}
        try:
            return read_json_if_there(self.opened.folder / name)
        except InputError:
            return {}


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def read_card_of(opened: Artifact) -> Card | None:
    """Card of a model; next to a single file it must begin with front matter, as on the hub."""
    card = read_card(opened.folder, required_mark=not opened.path.is_dir())
    if card is not None and card.truncated:
        notify([f"{opened.folder / CARD} is too long; only its beginning is read"])
    return card


def read_licences(folder: Path) -> dict[str, str]:
    """Texts of the licence files of a folder, by file name."""
    paths = sorted({path for pattern in _LICENCES for path in folder.glob(pattern)})
    texts = {path.name: read_beginning(path)[0] for path in paths[:_MOST_LICENCES]}
    return {name: text for name, text in texts.items() if text is not None}
