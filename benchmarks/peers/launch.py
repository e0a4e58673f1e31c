"""Starts a command and says what it took: a small process between a benchmark and a tool.

A child's peak memory is at least what its parent had when it started it, which for a benchmark that
has loaded torch is more than some tools ever need. This imports next to nothing.

    python -I -S launch.py REPORT PROGRAM ARGUMENTS...
"""

import os
import sys
import time


def main() -> None:
    """Run the command; write seconds, ru_maxrss and exit code into REPORT."""
    report, *command = sys.argv[1:]
    started = time.monotonic()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    seconds = time.monotonic() - started
    with open(report, "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs memory
        file.write(f"{seconds} {usage.ru_maxrss} {os.waitstatus_to_exitcode(status)}\n")


if __name__ == "__main__":
    main()
