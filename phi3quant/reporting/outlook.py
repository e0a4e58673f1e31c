"""Memory of a running variant, and the devices that have it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from converters.onnx.options import FLOATS, OnnxOptions
from converters.onnx.reader import OnnxModel
from phi3quant.estimating.artifact import GGUF, ONNX, Artifact, SizedTensor
from phi3quant.estimating.devices import Device, Fit, known_devices
from phi3quant.estimating.memory import (
    KV_TYPES,
    LLAMA_KV,
    RunMemory,
    largest_context,
    run_memory,
)
from phi3quant.gating import facts
from phi3quant.model.config import Phi3Config
from phi3quant.reporting.stated import mapping
from phi3quant.reporting.variant import Variant

CONTEXTS = (1024, 2048, 4096)
"""Context lengths in tokens; longer ones than the model's are cut."""
_VERDICT_KV = "f16"
"""Type of the KV cache for verdicts: the default of runtimes."""


@dataclass(frozen=True)
class DeviceOutlook:
    """A variant on a device.

    Attributes:
        device: with its memory.
        verdict: whether it fits at the longest of the contexts.
        largest_context: tokens that fit, with the entitlement if there is one; 0 if none do.
    """

    device: Device
    verdict: Fit
    largest_context: int


@dataclass(frozen=True)
class Outlook:
    """A variant on devices.

    Attributes:
        name: the variant's.
        memory: at each context, with each type of KV cache.
        devices: verdict of each.
    """

    name: str
    memory: Sequence[RunMemory]
    devices: Sequence[DeviceOutlook]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "memory": [{**asdict(each), "needed": each.needed} for each in self.memory],
            "devices": [
                {
                    "name": each.device.name,
                    "verdict": each.verdict.value,
                    "largest_context": each.largest_context,
                }
                for each in self.devices
            ],
        }


def outlooks(variants: Sequence[Variant]) -> list[Outlook]:
    """Outlooks of the variants in formats for phones, GGUF and ONNX."""
    return [_outlook(variant) for variant in variants if _runs(variant) in (GGUF, ONNX)]


def contexts(config: Phi3Config) -> list[int]:
    """CONTEXTS within the limit of a model, in tokens."""
    return sorted({min(config.max_position_embeddings, tokens) for tokens in CONTEXTS})


def _outlook(variant: Variant) -> Outlook:
    config, artifact, options = variant.config, _artifact(variant), _options(variant)
    kinds = ("f16",) if artifact.format == ONNX else LLAMA_KV
    memory = [
        run_memory(config, artifact, context, kind, options)
        for context in contexts(config)
        for kind in kinds
        if config.head_dim % KV_TYPES[kind][0] == 0
    ]
    longest = max(contexts(config))
    needed = run_memory(config, artifact, longest, _VERDICT_KV, options).needed
    devices = []
    for device in known_devices():
        limit = device.usable if device.entitled is None else device.entitled
        most = largest_context(config, artifact, limit, _VERDICT_KV, options)
        devices.append(DeviceOutlook(device, device.verdict(needed), most))
    return Outlook(variant.name, memory, devices)


def _artifact(variant: Variant) -> Artifact:
    """The variant in the form that estimates of memory take; they need only its bytes."""
    inspection = variant.inspection
    nbytes = inspection.weight_bytes
    weights = SizedTensor("weights", inspection.format, (1,), nbytes)
    return Artifact(_runs(variant), inspection.format, (weights,), nbytes, None)


def _runs(variant: Variant) -> str:
    return str(facts.kind(variant.opened.model))


def _options(variant: Variant) -> OnnxOptions:
    """Number format of an ONNX folder's inputs and outputs, from its manifest or the default."""
    recipe = mapping(variant.manifest.get("recipe"))
    io = mapping(recipe.get("onnx")).get("io", recipe.get("io"))
    if isinstance(variant.opened.model, OnnxModel) and isinstance(io, str) and io in FLOATS:
        return OnnxOptions(io=io)
    return OnnxOptions()
