"""Location of a model: a folder, a GGUF file, a hub id or the bundled phi3-tiny."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from phi3quant.disk.first_bytes import GGUF_MAGIC, lfs_hint, starts_with
from phi3quant.disk.output import MANIFEST
from phi3quant.disk.untrusted_json import read_json_if_there
from phi3quant.errors import AdapterError, MissingExtraError, ModelNotFoundError, require
from phi3quant.model.config_file import ADAPTER_CONFIG
from phi3quant.source.adapter_reference import AdapterReference, parse_adapter
from phi3quant.source.bundled import BUNDLED, bundled_folder

__all__ = ["BUNDLED", "GGUF_SUFFIX", "Located", "bundled_folder", "locate"]

GGUF_SUFFIX = ".gguf"
# Files to download; pickles are left out on purpose.
_PATTERNS = [
    "*.json",
    "*.safetensors",
    "tokenizer.model",
    "*.jinja",
    "merges.txt",
    "LICENSE*",
    "README.md",
]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


Adapters: TypeAlias = Sequence[str | Path | AdapterReference]
"""Adapters to merge: folders, hub ids or names inside a checkpoint, with =WEIGHT for a factor."""


@dataclass(frozen=True)
class Located:
    """Location and name of a model.

    Attributes:
        path: the model's folder or GGUF file on this machine.
        name: for tables: the name of the folder or file, the hub id, or ``phi3-tiny``.
        revision: commit of a model from the hub; None for others.
        adapters: adapters to merge into it, in this order.
    """

    path: Path
    name: str
    revision: str | None = None
    adapters: tuple[AdapterReference, ...] = ()

    @property
    def title(self) -> str:
        """Name with the adapters, such as ``base + lora=0.5``."""
        return " + ".join([self.name, *map(str, self.adapters)])

    @property
    def folder(self) -> Path:
        """The model's folder, or the folder of its file."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def bundled(self) -> bool:
        """Whether it is the model that is installed with phi3quant."""
        return self.name == BUNDLED and self.folder == bundled_folder()


Model: TypeAlias = str | Path | Located | None
"""A model: folder, file, hub id, None for the bundled one, or a located model with adapters."""


def locate(
    model: Model,
    revision: str | None = None,
    adapters: Adapters = (),
) -> Located:
    """Find a model and adapters for it. Where a model is expected, the result can be passed too.

    Args:
        model: a folder (OUT/FORMAT is accepted for every format of an output OUT, even for the
            one in OUT itself); a GGUF file of any name; a hub id such as
            ``microsoft/Phi-3-mini-4k-instruct``; None or ``phi3-tiny`` for the bundled model; or
            a result of this function, which is returned with ``adapters`` added.
        revision: branch, tag or commit of a hub id.
        adapters: folders, hub ids, or names of adapters inside the model's checkpoint; with
            ``=WEIGHT`` they are merged with that factor.

    Raises:
        ModelNotFoundError: there is no such folder or file, and the hub has no such model either.
        MissingExtraError: ``model`` looks like a hub id, but huggingface_hub isn't installed.
        AdapterError: the weight of an adapter isn't a number.
    """
    located = model if isinstance(model, Located) else _locate_model(model, revision)
    if not adapters:
        return located
    return replace(located, adapters=(*located.adapters, *map(locate_adapter, adapters)))


def locate_adapter(given: str | Path | AdapterReference) -> AdapterReference:
    """Find an adapter's folder; other names are left for adapters inside the checkpoint.

    Raises:
        ModelNotFoundError: it looks like a hub id, but can't be downloaded.
        MissingExtraError: it looks like a hub id, but huggingface_hub isn't installed.
        AdapterError: its weight isn't a number.
    """
    require(AdapterError, "adapter", given, str, Path, AdapterReference)
    adapter = parse_adapter(given)
    folder = Path(adapter.name)
    if folder.is_dir():
        return replace(adapter, folder=folder)
    if folder.exists() or not _HUB_ID.fullmatch(adapter.name):
        return adapter
    snapshot = _from_hub(adapter.name, adapter.revision)
    return replace(adapter, folder=snapshot.path, revision=snapshot.revision)


def _locate_model(model: str | Path | None, revision: str | None) -> Located:
    require(ModelNotFoundError, "model", model, str, Path, None)
    if model is None or (str(model) == BUNDLED and not Path(model).exists()):
        return Located(bundled_folder(), BUNDLED)
    path = _first_format(Path(model)) or Path(model)
    if path.is_dir():
        return Located(path, path.resolve().name)
    if starts_with(path, GGUF_MAGIC) or (path.is_file() and path.suffix == GGUF_SUFFIX):
        return Located(path, path.name)
    if path.exists():
        raise ModelNotFoundError(
            lfs_hint(path)
            or f"{model} is neither a folder nor a GGUF file; give the folder that holds "
            "config.json and the safetensors, or a GGUF file"
        )
    if not _HUB_ID.fullmatch(str(model)):
        raise ModelNotFoundError(
            f"there is no folder {model}; give a folder, a GGUF file, a hub id like "
            f"microsoft/Phi-3-mini-4k-instruct, or {BUNDLED} (bundled)"
        )
    return _from_hub(str(model), revision)


def _first_format(path: Path) -> Path | None:
    """OUT for a path OUT/FORMAT if OUT itself is of that format, otherwise None.

    The first format of an output has no folder of its own; see docs/adr/0005.
    """
    if path.exists() or not path.parent.is_dir():
        return None
    recipe = read_json_if_there(path.parent / MANIFEST).get("recipe")
    formats = recipe.get("formats") if isinstance(recipe, Mapping) else None
    return path.parent if isinstance(formats, list) and formats[:1] == [path.name] else None


def _from_hub(name: str, revision: str | None) -> Located:
    try:
        import huggingface_hub  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtraError(
            f"there is no folder {name}; to fetch it from the hub", "hub"
        ) from None
    for local_only in (True, False):
        try:
            folder = huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=_PATTERNS, local_files_only=local_only
            )
        except Exception as error:  # noqa: BLE001 - the client raises its HTTP library's kinds too
            reason = error
            continue
        if _is_complete(Path(folder)):
            return Located(Path(folder), name, Path(folder).name)
        reason = ModelNotFoundError("the local copy is incomplete")
    detail = str(reason).strip().splitlines()[0] if str(reason).strip() else type(reason).__name__
    raise ModelNotFoundError(
        f"there is no folder {name}, and downloading it from the hub failed ({detail}); "
        "download it elsewhere and give its folder"
    )


def _is_complete(folder: Path) -> bool:
    """Whether a snapshot has a configuration and weights; interrupted downloads may lack them."""
    described = any((folder / name).is_file() for name in ("config.json", ADAPTER_CONFIG))
    return described and any(folder.glob("*.safetensors"))
