"""Notices about unexpected facts, such as a part of a file that is ignored, and about slow steps.

They go to the logger ``phi3quant``, and the command line prints them (phi3quant.cli.notices).
Python prints warnings on stderr unless logging is configured; slow steps have level INFO, which a
script shows only if it asks for it.
"""

import logging
from collections.abc import Iterable

LOGGER = logging.getLogger("phi3quant")


def notify(notes: Iterable[str]) -> None:
    """Log notices, one sentence each."""
    for note in notes:
        LOGGER.warning("%s", note)


def announce(step: str) -> None:
    """Announce a step that takes seconds without showing progress."""
    LOGGER.info("%s", step)
