"""Notices about unexpected facts, such as a part of a file that is ignored.

They go to the logger ``phi3quant`` as warnings. Python prints these on stderr unless logging is
configured; the command line prints them itself (phi3quant.cli.notices).
"""

import logging
from collections.abc import Iterable

LOGGER = logging.getLogger("phi3quant")


def notify(notes: Iterable[str]) -> None:
    """Log notices, one sentence each."""
    for note in notes:
        LOGGER.warning("%s", note)
