"""Windows of token ids, kept in the user's cache folder."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from calib import windows
from phi3quant.disk.output import write_bytes
from phi3quant.disk.user_cache import user_cache
from phi3quant.errors import InputError, OutputError
from phi3quant.notices import notify

_FOLDER, _TENSOR, _DIGEST = "written", "windows", "sha256"
# Files that stay; the oldest are removed.
_MOST_FILES = 32
# Bytes of a file's header, at most.
_HEADER = 4096


def read(key: str, shape: tuple[int, int], rows: int) -> torch.Tensor | None:
    """Kept windows; None if there are none. A damaged file is a notice.

    Args:
        key: name of the file.
        shape: number of windows, and tokens per window.
        rows: number of valid token ids.

    Returns:
        int64 [windows, length].
    """
    path = _path(key)
    if path is None:
        return None
    try:
        return _checked(path, shape, rows)
    except FileNotFoundError:
        return None
    except (OSError, InputError, SafetensorError) as error:
        notify([f"{path} can't be used ({error}); the model writes its text again"])
        return None


def keep(key: str, ids: torch.Tensor) -> None:
    """Keep windows for later runs; a folder that can't be written is a notice.

    Args:
        key: name of the file.
        ids: int64 [windows, length].
    """
    path = _path(key)
    if path is None:
        notify([f"{_FAILED}: there is no home directory"])
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = save({_TENSOR: ids.to(torch.int32)}, {_DIGEST: windows.digest(ids)})
        write_bytes(path, content)
        files = sorted(path.parent.glob("*.safetensors"), key=lambda each: each.stat().st_mtime_ns)
        for old in files[:-_MOST_FILES]:
            old.unlink(missing_ok=True)
    except (OSError, OutputError) as error:
        notify([f"{_FAILED}: {error}"])


_FAILED = "the text that the model wrote can't be kept for later runs"


def _path(key: str) -> Path | None:
    folder = user_cache()
    return None if folder is None else folder / _FOLDER / f"{key}.safetensors"


def _checked(path: Path, shape: tuple[int, int], rows: int) -> torch.Tensor:
    size = 4 * shape[0] * shape[1]
    if not size < path.stat().st_size <= size + _HEADER:
        raise InputError("it has another size")
    with safe_open(path, framework="pt") as file:
        stored: torch.Tensor = file.get_tensor(_TENSOR)
        recorded = (file.metadata() or {}).get(_DIGEST)
    ids = stored.to(torch.int64)
    if tuple(ids.shape) != shape or windows.digest(ids) != recorded:
        raise InputError("its hash doesn't fit")
    if not 0 <= int(ids.min()) <= int(ids.max()) < rows:
        raise InputError("it has ids without tokens")
    return ids
