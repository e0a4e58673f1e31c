"""Environments of the peers, one each, because their requirements contradict one another."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks import ROOT

PEERS = ROOT / "build" / "peers"
"""Folder for environments and built tools."""


class Home(Protocol):
    """Installation of a peer."""

    @property
    def variables(self) -> Mapping[str, str]:
        """Environment variables for the peer."""

    def make(self) -> None:
        """Install the peer unless it is installed."""

    def made(self) -> bool:
        """Whether the peer is installed."""

    def versions(self) -> dict[str, str]:
        """Installed versions by name."""


@dataclass(frozen=True)
class Environment:
    """Virtual environment under build/peers, installed from PyPI when needed; implements Home.

    Attributes:
        name: name of its folder.
        packages: pinned packages, installed with their dependencies.
        unaided: pinned packages, installed after the others and without dependencies.
        variables: environment variables for programs that run there.
    """

    name: str
    packages: tuple[str, ...]
    unaided: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        """Path of its interpreter, which exists after ``make``."""
        return PEERS / self.name / "bin" / "python"

    @property
    def _stamp(self) -> Path:
        return PEERS / self.name / "packages.txt"

    @property
    def _wanted(self) -> str:
        return "\n".join((*self.packages, *self.unaided))

    def make(self) -> None:
        """Make the environment unless it exists with the same packages."""
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
            # Build against the torch just installed; build isolation would download another one.
            alone = ["--no-deps", "--no-build-isolation"]
            subprocess.run([*install, *alone, *self.unaided], check=True)
        self._stamp.write_text(self._wanted, encoding="utf-8")

    def made(self) -> bool:
        """Whether the environment exists with the same packages."""
        return self._stamp.is_file() and self._stamp.read_text(encoding="utf-8") == self._wanted

    def versions(self) -> dict[str, str]:
        """Versions of the pinned packages."""
        command: list[str | Path] = [self.python, "-m", "pip", "list", "--format", "json"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = {entry["name"].lower(): entry["version"] for entry in json.loads(listed)}
        named = (pin.partition("==")[0].lower() for pin in (*self.packages, *self.unaided))
        return {name: found[name] for name in named}
