"""Notes for whoever runs a command or a script.

They go to the logger ``phi3quant``, and the command line prints them (phi3quant.cli.notices). Input
that is read in an unexpected way is a warning, which a script shows on stderr unless it configures
logging; slow steps are announced at level INFO, which a script shows only if it asks for it.
"""

import logging
from collections.abc import Iterable

LOGGER = logging.getLogger("phi3quant")


def notify(notes: Iterable[str]) -> None:
    """Pass notes on, each a sentence."""
    for note in notes:
        LOGGER.warning("%s", note)


def announce(step: str) -> None:
    """Announce a step that takes seconds without showing progress."""
    LOGGER.info("%s", step)
