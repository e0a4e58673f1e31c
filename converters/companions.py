"""The files that stand beside weights: config.json, tokenizer, generation settings, licences."""

import json
import shutil
from pathlib import Path
from typing import Any

from phi3quant.errors import CheckpointError
from phi3quant.model.config import Phi3Config
from phi3quant.source.tokenizer import FILES

# What config.json must not promise any more: code that lies elsewhere, and the old dtype.
_DROPPED_KEYS = ("auto_map", "torch_dtype", "dtype", "quantization_config")


def write_config(folder: Path, config: Phi3Config, **added: Any) -> None:
    """Write config.json as the source has it, but for what described its weights.

    Args:
        folder: where to.
        config: of the source.
        added: keys that describe the new weights.
    """
    kept = {key: value for key, value in config.raw.items() if key not in _DROPPED_KEYS}
    text = json.dumps({**kept, **added}, indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def carry_along(source: Path, folder: Path) -> None:
    """Copy tokenizer, generation settings and licences."""
    for path in _companions(source):
        shutil.copyfile(path, folder / path.name)


def check_companions(source: Path) -> None:
    """Refuse companions that can't be carried along, before any work.

    Outputs get published, and a link may lead to any file of the user's. Links into the hub's cache
    are fine: snapshots consist of them, and folders that older clients downloaded to. So are links
    to files of the same name: a variant of a model is often a folder of links to another.

    Raises:
        CheckpointError: one is such a link, or has a name that a manifest can't hold.
    """
    home = source.resolve()
    for path in _companions(source):
        if path.name != path.name.encode("utf-8", "replace").decode():
            raise CheckpointError(f"the name of {path} is not UTF-8; rename the file")
        target = path.resolve()
        own = home in target.parents or target.name == path.name or _is_hub_blob(target)
        if path.is_symlink() and not own:
            raise CheckpointError(
                f"{path} is a link to {target.name} outside of the model's folder, and the output "
                "would hold a copy of that; replace the link by the file that is meant"
            )


def _is_hub_blob(file: Path) -> bool:
    blobs = file.parent
    return blobs.name == "blobs" and (blobs.parent / "snapshots").is_dir()


def _companions(source: Path) -> list[Path]:
    licences = [path.name for path in sorted(source.glob("LICENSE*"))]
    return [source / name for name in (*FILES, *licences) if (source / name).is_file()]
