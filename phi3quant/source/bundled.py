"""The model that is installed with phi3quant."""

from importlib import resources
from pathlib import Path

BUNDLED = "phi3-tiny"


def bundled_folder() -> Path:
    """Folder of the bundled model, phi3-tiny."""
    return Path(str(resources.files("phi3quant") / "assets" / BUNDLED))
