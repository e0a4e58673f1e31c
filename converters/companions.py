"""Companions of weights: config.json, tokenizer files, generation settings, licences."""

import json
import shutil
from pathlib import Path
from typing import Any

from phi3quant.errors import CheckpointError
from phi3quant.model.config import Phi3Config
from phi3quant.notices import notify
from phi3quant.source.template_files import NAMED_FOLDER
from phi3quant.source.tokenizer import FILES

# Keys that no longer hold for an output: code in other files, and how the weights were stored.
_DROPPED_KEYS = ("auto_map", "torch_dtype", "dtype", "quantization_config", "quantization")


def write_config(folder: Path, config: Phi3Config, **added: Any) -> None:
    """Write the source's config.json without the keys that described its weights.

    Args:
        folder: destination.
        config: configuration of the source.
        added: further keys, which describe the new weights.
    """
    kept = {key: value for key, value in config.raw.items() if key not in _DROPPED_KEYS}
    text = json.dumps({**kept, **added}, indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def carry_along(source: Path, folder: Path) -> None:
    """Copy tokenizer files, generation settings and licences."""
    for path in _companions(source):
        shutil.copyfile(path, folder / path.name)


def check_companions(source: Path) -> None:
    """Refuse companions that can't be copied into an output, before any work.

    Outputs get published, and a link may lead to any of the user's files. Two kinds of links are
    accepted. Links into the hub's cache make up its snapshots and the folders of older clients.
    Links to files of the same name occur in variants of a model that share files.

    Raises:
        CheckpointError: a companion is another kind of link, or its name is not UTF-8.
    """
    if (source / NAMED_FOLDER).is_dir():
        notify([f"{source / NAMED_FOLDER} is not copied; the output has only the default template"])
    home = source.resolve()
    for path in _companions(source):
        if path.name != path.name.encode("utf-8", "replace").decode():
            raise CheckpointError(f"the name of {path} is not UTF-8; rename the file")
        target = path.resolve()
        accepted = home in target.parents or target.name == path.name or _is_hub_blob(target)
        if path.is_symlink() and not accepted:
            raise CheckpointError(
                f"{path} is a link to {target.name} outside of the model's folder, and the output "
                "would contain a copy of that file; replace the link with the intended file"
            )


def _is_hub_blob(file: Path) -> bool:
    blobs = file.parent
    return blobs.name == "blobs" and (blobs.parent / "snapshots").is_dir()


def _companions(source: Path) -> list[Path]:
    licences = [path.name for path in sorted(source.glob("LICENSE*"))]
    return [source / name for name in (*FILES, *licences) if (source / name).is_file()]
