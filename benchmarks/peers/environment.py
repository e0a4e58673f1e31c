"""An environment of its own for each peer: their needs contradict ours and one another's."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks import ROOT

PEERS = ROOT / "build" / "peers"
"""Where environments and built tools are kept."""


class Home(Protocol):
    """Where a peer is installed."""

    @property
    def variables(self) -> Mapping[str, str]:
        """Set for what runs there."""

    def make(self) -> None:
        """Install the peer, unless it is there."""

    def made(self) -> bool:
        """Whether it is there."""

    def versions(self) -> dict[str, str]:
        """What is installed, by name."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment under build/peers, made from PyPI when needed; implements Home.

    Attributes:
        name: of its folder.
        packages: pinned, installed with what they require.
        unaided: pinned, installed after them and without what they declare to require.
        variables: set for what runs there.
    """

    name: str
    packages: tuple[str, ...]
    unaided: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        """Its interpreter, which is there after ``make``."""
        return PEERS / self.name / "bin" / "python"

    @property
    def _stamp(self) -> Path:
        return PEERS / self.name / "packages.txt"

    @property
    def _wanted(self) -> str:
        return "\n".join((*self.packages, *self.unaided))

    def make(self) -> None:
        """Make it, unless it is there with the same packages."""
        if self.made():
            return
        subprocess.run([sys.executable, "-m", "venv", "--clear", PEERS / self.name], check=True)
        install: list[str | Path] = [
            self.python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        subprocess.run([*install, *self.packages], check=True)
        if self.unaided:
            # Built against what was just installed, not against another torch fetched for that.
            alone = ["--no-deps", "--no-build-isolation"]
            subprocess.run([*install, *alone, *self.unaided], check=True)
        self._stamp.write_text(self._wanted, encoding="utf-8")

    def made(self) -> bool:
        """See Home: with the same packages, that is."""
        return self._stamp.is_file() and self._stamp.read_text(encoding="utf-8") == self._wanted

    def versions(self) -> dict[str, str]:
        """The version of each package that is pinned."""
        command: list[str | Path] = [self.python, "-m", "pip", "list", "--format", "json"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = {entry["name"].lower(): entry["version"] for entry in json.loads(listed)}
        named = (pin.partition("==")[0].lower() for pin in (*self.packages, *self.unaided))
        return {name: found[name] for name in named}
