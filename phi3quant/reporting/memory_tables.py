"""Memory and devices, in rows."""

from collections.abc import Sequence

from phi3quant.estimating.devices import Device, Fit
from phi3quant.reporting import wording
from phi3quant.reporting.outlook import DeviceOutlook, Outlook
from phi3quant.reporting.tables import Table


def memory_table(outlooks: Sequence[Outlook]) -> Table | None:
    """Memory of the variants at each context; None if none is in a format for phones."""
    if not outlooks:
        return None
    contexts = sorted({each.context for outlook in outlooks for each in outlook.memory})
    rows = []
    for outlook in outlooks:
        for kind in dict.fromkeys(each.kv_type for each in outlook.memory):
            needed = {each.context: each.needed for each in outlook.memory if each.kv_type == kind}
            rows.append([outlook.name, kind, *(wording.size(needed[at]) for at in contexts)])
    headings = ["variant", "KV cache", *(f"{at:,} tokens" for at in contexts)]
    note = (
        "Weights, KV cache, buffers and runtime together, at their peak. Weights mapped from the "
        "file are clean pages, which a system can drop."
    )
    return Table("Memory at each context", headings, rows, 2, note)


def device_table(outlooks: Sequence[Outlook], *, fits: bool | None = None) -> Table | None:
    """Verdicts of devices on the variants.

    Args:
        outlooks: of the variants.
        fits: True for the devices on which each variant fits, False for the others; None for all.

    Returns:
        The table; None if it has no rows.
    """
    rows = []
    for verdicts in zip(*(outlook.devices for outlook in outlooks), strict=True):
        device = verdicts[0].device
        if fits in (None, all(each.verdict is Fit.FITS for each in verdicts)):
            rows.append([_name(device), _usable(device), *map(_cell, verdicts)])
    if not rows:
        return None
    longest = max(each.context for outlook in outlooks for each in outlook.memory)
    note = (
        f"Verdict at {longest:,} tokens, and the longest context that fits. The KV cache has 16 "
        "bits, or the type that an ONNX model has. The memory for an app is an assumption (in "
        "brackets: with the entitlement); phi3quant/assets/estimates/devices.json has its source."
    )
    headings = ["device", "memory for an app", *(outlook.name for outlook in outlooks)]
    return Table("Devices", headings, rows, len(headings), note)


def _name(device: Device) -> str:
    return device.title or device.name


def _usable(device: Device) -> str:
    entitled = "" if device.entitled is None else f" ({wording.size(device.entitled)})"
    return wording.size(device.usable) + entitled


def _cell(outlook: DeviceOutlook) -> str:
    verdict = outlook.verdict.value
    return f"{verdict}, {outlook.largest_context:,} tokens" if outlook.largest_context else verdict
