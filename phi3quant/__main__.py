"""The program: ``python -m phi3quant`` and the ``phi3quant`` script."""

import os
import sys
import traceback
import warnings

from phi3quant.supported import UNSUPPORTED

# Rounds that a thread of libgomp, torch's OpenMP on Linux, waits for work before it sleeps. By its
# default of 300,000, waiting threads of two runs on one machine keep each other from working.
_WAITING = ("GOMP_SPINCOUNT", "1000")


def run() -> None:
    """Run the command line from ``sys.argv``; signals are handled before slow imports."""
    if UNSUPPORTED:
        sys.exit(_refused(UNSUPPORTED))
    # The module requires POSIX signals.
    from phi3quant.cli import interruption  # noqa: PLC0415

    if "OMP_WAIT_POLICY" not in os.environ:
        # Read when torch is loaded.
        os.environ.setdefault(*_WAITING)
    interruption.take_signals()
    interruption.strike_again()
    if not sys.warnoptions:
        # Libraries' warnings are meant for their developers.
        warnings.simplefilter("ignore")
    try:
        from phi3quant.cli.main import main  # noqa: PLC0415

        main(prog_name="phi3quant")
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{interruption.MESSAGE}\n")
        sys.exit(interruption.EXIT_INTERRUPTED)
    except Exception:  # noqa: BLE001 - asked for by the environment, see phi3quant.cli.ending
        traceback.print_exc()
        sys.exit(70)
    finally:
        interruption.ignore_signals()


def _refused(message: str) -> int:
    sys.stderr.write(f"Error: {message}\n")
    return 2


if __name__ == "__main__":
    run()
