"""Memory and devices, in rows."""

from collections.abc import Sequence

from phi3quant.reporting import wording
from phi3quant.reporting.outlook import Outlook
from phi3quant.reporting.tables import Table


def memory_table(outlooks: Sequence[Outlook]) -> Table | None:
    """Memory that variants take at each context; None where none of them runs on phones."""
    if not outlooks:
        return None
    contexts = sorted({each.context for outlook in outlooks for each in outlook.memory})
    rows = []
    for outlook in outlooks:
        for kind in dict.fromkeys(each.kv_type for each in outlook.memory):
            needed = {each.context: each.needed for each in outlook.memory if each.kv_type == kind}
            rows.append([outlook.name, kind, *(wording.size(needed[at]) for at in contexts)])
    headings = ["variant", "cache", *(f"{at:,} tokens" for at in contexts)]
    note = (
        "Weights, the cache of keys and values, and buffers and runtime at their most; weights "
        "that are mapped from the file are clean pages, which a system can drop."
    )
    return Table("Memory at each context", headings, rows, 2, note)


def device_table(outlooks: Sequence[Outlook]) -> Table | None:
    """What devices make of the variants; None where none of them runs on phones."""
    if not outlooks:
        return None
    rows = []
    for at, first in enumerate(outlooks[0].devices):
        device = first.device
        cells = [
            f"{each.verdict.value}, {each.largest_context:,} tokens"
            if each.largest_context
            else each.verdict.value
            for each in (outlook.devices[at] for outlook in outlooks)
        ]
        gets = wording.size(device.usable)
        if device.entitled is not None:
            gets += f" ({wording.size(device.entitled)})"
        rows.append([f"{device.name}, {device.kind}", gets, *cells])
    longest = max(each.context for outlook in outlooks for each in outlook.memory)
    note = (
        f"Verdicts at {longest:,} tokens and the longest context that fits; the cache in 16 bits, "
        "or as an ONNX model keeps it. What an app gets of a device is an assumption (in brackets: "
        "with the entitlement); phi3quant/assets/estimates/devices.json says where each is from."
    )
    headings = ["device", "an app gets", *(outlook.name for outlook in outlooks)]
    return Table("Devices", headings, rows, len(headings), note)
