"""The model that comes with phi3quant."""

from importlib import resources
from pathlib import Path

BUNDLED = "phi3-tiny"


def bundled_folder() -> Path:
    """Folder of the model that is installed with phi3quant."""
    return Path(str(resources.files("phi3quant") / "assets" / BUNDLED))
