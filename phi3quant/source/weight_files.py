"""Files of a folder's weights: a single safetensors file, or shards with an index."""

import shlex
from pathlib import Path

from safetensors import SafetensorError, safe_open

from phi3quant.disk.file_name import is_file_name
from phi3quant.disk.first_bytes import lfs_hint
from phi3quant.disk.untrusted_json import read_json
from phi3quant.errors import CheckpointError
from phi3quant.model.config_file import adapter_hint
from phi3quant.source.tensor_folder import Piece, TensorEntry, TensorFolder

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_SINGLE_WINS = (
    f"both {SINGLE_FILE} and {INDEX_FILE} exist; {SINGLE_FILE} is read and the shards are not, "
    "as by transformers"
)
_PICKLES = ("*.bin", "*.pt", "*.pth")


def open_tensors(folder: Path) -> TensorFolder:
    """Read the headers of all weight files of ``folder``, and the index if there is one.

    If a folder has both a single file and an index, the single file is read, as in transformers.

    Raises:
        CheckpointError: there are no weights, or a shard is missing, truncated or mislabelled.
    """
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.is_file():
        notes = () if _no_shards(index) else (_SINGLE_WINS,)
        return TensorFolder(folder, (single,), read_header(single), notes + _adapter_note(folder))
    if not index.is_file():
        raise CheckpointError(
            adapter_hint(folder)
            or f"{folder} has no {SINGLE_FILE} and no index of shards{_hint(folder)}"
        )
    weight_map = _read_weight_map(index)
    files = tuple(folder / name for name in sorted(set(weight_map.values())))
    tensors: dict[str, TensorEntry] = {}
    for file in files:
        for name, stored in read_header(file).items():
            if name in tensors:
                raise CheckpointError(f"tensor {name} is in both {tensors[name].file} and {file}")
            tensors[name] = stored
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].file.name != shard:
            raise CheckpointError(
                f"{index.name} places {name} in {shard}, which doesn't hold it; "
                "the shards don't belong to this index, so download both again"
            )
    return TensorFolder(folder, files, tensors, _adapter_note(folder))


def _adapter_note(folder: Path) -> tuple[str, ...]:
    if adapter_hint(folder) is None:
        return ()
    return ("an adapter is stored next to the weights (adapter_config.json); it is not applied",)


def _no_shards(index: Path) -> bool:
    """Whether the index is missing or lists only the single file, as some tools write it."""
    if not index.exists():
        return True
    try:
        return set(_read_weight_map(index).values()) == {SINGLE_FILE}
    except CheckpointError:
        return False


def _hint(folder: Path) -> str:
    """Remedy for a message, derived from the files that are present in place of the weights."""
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        return (
            f"; it has {others[0]}{more}: add {INDEX_FILE} if these are shards, or name a single "
            f"file {SINGLE_FILE}"
        )
    if any(any(folder.glob(pattern)) for pattern in _PICKLES):
        return (
            "; .bin, .pt and .pth files are pickles, which can run code and are not read. "
            f"If you trust them, add {SINGLE_FILE} by: {_conversion(folder)}"
        )
    return ""


def _conversion(folder: Path) -> str:
    """Command that adds safetensors to a folder of pickles."""
    code = (
        "from transformers import AutoModelForCausalLM as M; "
        f"M.from_pretrained({str(folder)!r}, dtype='auto').save_pretrained({str(folder)!r})"
    )
    return f"python -c {shlex.quote(code)}"


def _read_weight_map(path: Path) -> dict[str, str]:
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} is not an index of shards: it has no weight_map")
    for name, shard in weight_map.items():
        if not is_file_name(shard):
            raise CheckpointError(
                f"{path} places {name[:80]} in {repr(shard)[:80]}, which is not a file name"
            )
    return weight_map


def read_header(file: Path) -> dict[str, TensorEntry]:
    """Names, types and shapes of the tensors of a safetensors file.

    Raises:
        CheckpointError: the file is missing, truncated or mislabelled.
    """
    try:
        if not file.is_file():
            raise CheckpointError(f"the shard {file} is missing")
        # safe_open reports every error of the system as a missing file.
        file.open("rb").close()
    except OSError as error:
        raise CheckpointError(f"{file} can't be read: {error.strerror}") from None
    try:
        with safe_open(file, framework="pt") as opened:
            return {
                # Slices are lazy: these two calls read no data.
                name: TensorEntry(
                    stored.get_dtype(), (Piece(file, name, tuple(stored.get_shape())),)
                )
                for name in opened.keys()  # noqa: SIM118 - not a dict; it has no __iter__
                for stored in [opened.get_slice(name)]
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(lfs_hint(file) or _not_whole(file, error)) from None


def _not_whole(file: Path, error: Exception) -> str:
    size = f" ({file.stat().st_size} bytes)" if file.is_file() else ""
    return (
        f"{file}{size} is not a whole safetensors file ({error}); "
        "it is truncated or mislabelled: download it again"
    )
