"""Launcher that measures a command's time and memory: a small process between benchmark and tool.

The peak memory of a child process is at least the memory of its parent when it started. For a
benchmark that has loaded torch, this is more than some tools need. The launcher imports hardly
anything.

    python -I -S launch.py REPORT PROGRAM ARGUMENTS...
"""

import os
import sys
import time


def main() -> None:
    """Run the command and write seconds, ru_maxrss and exit code into REPORT."""
    report, *command = sys.argv[1:]
    started = time.monotonic()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    seconds = time.monotonic() - started
    with open(report, "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs memory
        file.write(f"{seconds} {usage.ru_maxrss} {os.waitstatus_to_exitcode(status)}\n")


if __name__ == "__main__":
    main()
