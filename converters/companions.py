"""The files that stand beside weights: config.json, tokenizer, generation settings, licences."""

import json
import shutil
from pathlib import Path
from typing import Any

from phi3quant.config import Phi3Config
from phi3quant.tokenizer import FILES

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
    licences = [path.name for path in sorted(source.glob("LICENSE*"))]
    for name in (*FILES, *licences):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
