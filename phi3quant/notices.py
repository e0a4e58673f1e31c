"""Notes on what was read otherwise than one might think, for whoever runs a command or a script.

They go to the logger ``phi3quant`` as warnings: a script sees them on stderr unless it configures
logging, and the command line prints them (phi3quant.cli.notices).
"""

import logging
from collections.abc import Iterable

LOGGER = logging.getLogger("phi3quant")


def notify(notes: Iterable[str]) -> None:
    """Pass notes on, each a sentence."""
    for note in notes:
        LOGGER.warning("%s", note)
