"""Devices, and whether a model fits them."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import resources
from typing import Any

from phi3quant.errors import InputError
from phi3quant.units import size

_GIB = 1 << 30
_GB = 10**9


class Fit(Enum):
    """Whether a model runs on a device."""

    FITS = "fits"
    ENTITLEMENT = "needs an entitlement"
    NO = "does not fit"


@dataclass(frozen=True)
class Device:
    """A device, or a class of them.

    Attributes:
        name: on the command line.
        kind: what it is, for people.
        memory: bytes of RAM, or VRAM.
        usable: bytes that one app can have.
        entitled: bytes that it can have with the platform's entitlement; None if there is none.
        entitlement: its name.
        bandwidth: bytes a second that memory gives at most; None if not known.
        basis: where ``usable`` comes from.
        source: where ``memory`` and ``bandwidth`` come from.
        title: name for people.
    """

    name: str
    kind: str
    memory: int
    usable: int
    entitled: int | None
    entitlement: str | None
    bandwidth: float | None
    basis: str
    source: str
    title: str = ""

    def verdict(self, needed: int) -> Fit:
        """Whether ``needed`` bytes are to be had."""
        if needed <= self.usable:
            return Fit.FITS
        if self.entitled is not None and needed <= self.entitled:
            return Fit.ENTITLEMENT
        return Fit.NO


def known_devices() -> list[Device]:
    """All devices of the data file."""
    file = resources.files("phi3quant") / "assets" / "estimates" / "devices.json"
    read = json.loads(file.read_text(encoding="utf-8"))
    return [_device(entry, read["kinds"][entry["kind"]]) for entry in read["devices"]]


def choose_devices(names: Sequence[str]) -> list[Device]:
    """Devices by their names.

    Raises:
        InputError: there is none of that name; the message says which is nearest.
    """
    known = {device.name: device for device in known_devices()}
    chosen = []
    for name in names:
        asked = name.lower().replace(" ", "-").replace("_", "-")
        if asked not in known:
            near = difflib.get_close_matches(asked, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(
                f"there is no device {name!r}{hint} (known are {', '.join(known)}; "
                "for others give --memory, and --bandwidth)"
            )
        chosen.append(known[asked])
    return chosen


def custom_device(memory: int, bandwidth: float | None) -> Device:
    """A device of which ``memory`` bytes can be used, as they are given."""
    return Device(
        name=size(memory),
        kind="given",
        memory=memory,
        usable=memory,
        entitled=None,
        entitlement=None,
        bandwidth=bandwidth,
        basis="given, all of it usable",
        source="given",
    )


def _device(entry: dict[str, Any], kind: dict[str, Any]) -> Device:
    memory = int(entry["memory_gib"] * _GIB)
    return Device(
        name=entry["name"],
        kind=kind["title"],
        memory=memory,
        usable=int(memory * kind["usable"]),
        entitled=int(memory * kind["entitled"]) if "entitled" in kind else None,
        entitlement=kind.get("entitlement"),
        bandwidth=entry["bandwidth"] * _GB,
        basis=kind["basis"],
        source=entry["source"],
        title=entry["title"],
    )
