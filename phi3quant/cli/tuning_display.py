"""Results of tuning on the terminal."""

from collections.abc import Mapping
from typing import Any

from phi3quant.cli.layout import print_text
from phi3quant.units import count


def print_tuning(tuning: Mapping[str, Any]) -> None:
    """Print the divergence of each held-back text before and after tuning.

    Args:
        tuning: result as in a manifest.
    """
    before, after = tuning["kl_before"], tuning["kl_after"]
    texts = ", ".join(f"{before[name]:.3g} to {after[name]:.3g} ({name})" for name in before)
    windows = count(int(tuning["windows"]), "window")
    if tuning["strength"] == 0:
        print_text(
            f"tuned on {windows}, but held-back windows didn't gain; scales and norms are as before"
        )
        return
    part = "" if tuning["strength"] == 1 else f", at {tuning['strength']:g} of the change"
    print_text(f"tuned on {windows}{part}: held-back KL {texts}")
