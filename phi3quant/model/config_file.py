"""Reader of config.json."""

from pathlib import Path

from phi3quant.disk.untrusted_json import read_json
from phi3quant.errors import ConfigError, InputError
from phi3quant.model.config import Phi3Config, parse_config

ADAPTER_CONFIG = "adapter_config.json"


def read_config(folder: Path) -> Phi3Config:
    """Read ``folder``/config.json.

    Raises:
        ConfigError: the file is missing, is not a JSON object, or is not a Phi-3 configuration.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(adapter_hint(folder) or f"{folder} has no config.json{_hint(folder)}")
    return read_config_file(path)


def read_config_file(path: Path) -> Phi3Config:
    """Read a configuration from a file of any name.

    Raises:
        ConfigError: as read_config.
    """
    raw = read_json(path, raises=ConfigError)
    try:
        return parse_config(raw)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def adapter_hint(folder: Path) -> str | None:
    """Message for the folder of an adapter; None for other folders."""
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return None
    try:
        adapter = read_json(path, raises=ConfigError)
    except InputError:
        adapter = {}
    base, kind = adapter.get("base_model_name_or_path"), adapter.get("peft_type")
    base = base if isinstance(base, str) and base else "its base model"
    kind = kind if isinstance(kind, str) and kind else "LoRA"
    return (
        f"{folder} is a {kind} adapter of {base}, not a model; use {base} with --adapter {folder}"
    )


def _hint(folder: Path) -> str:
    if (folder / "genai_config.json").is_file():
        return "; put the config.json of the original model next to its genai_config.json"
    return "; it is not a model folder"
