"""Estimates of a model before it is quantized: formats, memory, devices, cost."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from converters.gguf.sizes import limit_notes, natural_type
from converters.gguf.type_policy import FILE_TYPES, FileType, file_type
from converters.onnx.options import OnnxOptions
from converters.packed.sizes import PACKED
from phi3quant.errors import SchemeError
from phi3quant.estimating.artifact import GGUF, ONNX, Artifact, gguf, onnx, packed
from phi3quant.estimating.devices import Device, Fit
from phi3quant.estimating.members import Described
from phi3quant.estimating.memory import (
    KV_TYPES,
    LLAMA_KV,
    RunMemory,
    check_context,
    largest_context,
    run_memory,
    tokens_per_second,
)
from phi3quant.estimating.quantizing import QuantizingCost, quantizing_cost
from phi3quant.model.config import Phi3Config
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.scheme_overrides import schemes_with_overrides
from phi3quant.run.profiles import PROFILES


@dataclass(frozen=True)
class Plan:
    """Planned artifact and its use.

    Attributes:
        scheme: scheme of the codes.
        method: rtn, awq or gptq.
        format: an entry of artifact.FORMATS, for the memory and device estimates.
        gguf_type: a key of converters.gguf.type_policy.FILE_TYPES, in any case; None for the type
            that holds the scheme's codes.
        tensor_types: types of single matrices, as in phi3quant.run.recipe.Recipe.
        profile: a key of phi3quant.run.profiles.PROFILES, whose types are used in a GGUF file; None
            for no limits.
        onnx: layout of ONNX.
        contexts: lengths of context in tokens; None for 1024, 2048 and 4096, up to the model's.
        kv_type: type of the cache, for the verdicts.
    """

    scheme: QuantScheme = field(default_factory=QuantScheme)
    method: str = "awq"
    format: str = GGUF
    gguf_type: str | None = None
    tensor_types: tuple[str, ...] = ()
    profile: str | None = None
    onnx: OnnxOptions = field(default_factory=OnnxOptions)
    contexts: tuple[int, ...] | None = None
    kv_type: str = "f16"

    def schemes(self, config: Phi3Config) -> MatrixSchemes:
        """Schemes of the codes; types of GGUF replace them in a file.

        Raises:
            SchemeError: types of single matrices can't be parsed or don't fit the model.
        """
        profile_type = None if self.profile is None else PROFILES[self.profile].gguf_type
        of_scheme = self.gguf_type is None and profile_type is None
        return schemes_with_overrides(self.scheme, self.tensor_types if of_scheme else (), config)

    def file_type(self, config: Phi3Config) -> FileType:
        """Types of a GGUF file.

        Raises:
            SchemeError: GGUF has no types for the codes, or there is no such type.
        """
        if self.profile is not None:
            return PROFILES[self.profile].file_type(self.gguf_type, self.tensor_types)
        if self.gguf_type is not None:
            return _gguf_type(self, self.gguf_type, self.tensor_types)
        return natural_type(self.schemes(config))


@dataclass(frozen=True)
class DeviceFit:
    """Verdict on an artifact for a device.

    Attributes:
        device: the device.
        verdict: verdict at the longest planned context.
        largest_context: longest context that fits without an entitlement, in tokens.
        entitled_context: longest context that fits with the entitlement; None without one.
        ceiling: limit on tokens per second by memory bandwidth; None if that is unknown.
    """

    device: Device
    verdict: Fit
    largest_context: int
    entitled_context: int | None
    ceiling: float | None


@dataclass(frozen=True)
class Estimate:
    """Estimate of a model.

    Attributes:
        model: estimated model.
        plan: planned artifact and its use.
        chosen: artifact in the planned format, for the memory and device estimates.
        others: artifacts in all formats and types that can hold the model.
        refused: formats that can't hold it, with reasons.
        memory: memory of ``chosen`` for each context and type of cache.
        verdicts: verdicts for each device.
        cost: memory and disk needed to quantize.
    """

    model: Described
    plan: Plan
    chosen: Artifact
    others: tuple[Artifact, ...]
    refused: tuple[tuple[str, str], ...]
    memory: tuple[RunMemory, ...]
    verdicts: tuple[DeviceFit, ...]
    cost: QuantizingCost

    @property
    def warnings(self) -> list[str]:
        """Warnings about common mistakes with the model's memory, and about exceeded limits."""
        limits = []
        if self.plan.format == GGUF:
            limits = limit_notes(self.plan.file_type(self.model.config), self.model.config)
        return [*self.model.warnings, *limits]

    @property
    def fits(self) -> bool:
        """Whether all devices can run it, if necessary with an entitlement."""
        return all(fit.verdict is not Fit.NO for fit in self.verdicts)

    def as_json(self, *, tensors: bool = False) -> dict[str, Any]:
        """The estimate as JSON values.

        Args:
            tensors: whether to list every tensor of the chosen artifact.
        """
        return {
            "model": self.model.name,
            "parameters": self.model.parameters,
            "warnings": self.warnings,
            "profile": self.plan.profile,
            "method": self.plan.method,
            "scheme": str(self.plan.schemes(self.model.config)),
            "artifact": self._described(self.chosen, tensors=tensors),
            "formats": [self._described(other) for other in self.others],
            "refused": dict(self.refused),
            "memory": [_memory(entry) for entry in self.memory],
            "devices": [_verdict(fit) for fit in self.verdicts],
            "quantizing": asdict(self.cost),
            "fits": self.fits,
        }

    def _described(self, artifact: Artifact, *, tensors: bool = False) -> dict[str, Any]:
        described: dict[str, Any] = {
            "format": artifact.format,
            "kind": artifact.kind,
            "bytes": artifact.nbytes,
            "file_bytes": artifact.file_bytes,
            "bits_per_weight": artifact.bits_per_weight(self.model.parameters),
            "read_per_token": artifact.read_per_token,
        }
        if tensors:
            described["tensors"] = [asdict(tensor) for tensor in artifact.tensors]
        return described


def estimate(model: Described, plan: Plan, devices: Sequence[Device]) -> Estimate:
    """Estimate a model.

    Raises:
        SchemeError: the format can't hold the scheme, or the cache's type doesn't fit the heads.
        ConfigError: a context is longer than the model's.
    """
    config = model.config
    for context in plan.contexts or ():
        check_context(config, context)
    chosen = _chosen(model, plan)
    others, refused = _all_formats(model, plan)
    longest = config.max_position_embeddings
    contexts = plan.contexts or tuple(
        sorted({min(longest, tokens) for tokens in (1024, 2048, 4096)})
    )
    kinds: tuple[str, ...] = LLAMA_KV if chosen.format != ONNX else ("f16",)
    kinds = tuple(kind for kind in kinds if config.head_dim % KV_TYPES[kind][0] == 0)
    memory = tuple(
        run_memory(config, chosen, context, kind, plan.onnx)
        for context in contexts
        for kind in kinds
    )
    at_longest = run_memory(config, chosen, max(contexts), plan.kv_type, plan.onnx)
    return Estimate(
        model=model,
        plan=plan,
        chosen=chosen,
        others=tuple(others),
        refused=tuple(refused),
        memory=memory,
        verdicts=tuple(_judge(model, plan, chosen, at_longest, device) for device in devices),
        cost=quantizing_cost(config, plan.method, chosen.file_bytes),
    )


def _chosen(model: Described, plan: Plan) -> Artifact:
    if plan.format == GGUF:
        return gguf(model, plan.file_type(model.config))
    schemes = plan.schemes(model.config)
    if plan.format == ONNX:
        return onnx(model, schemes, plan.onnx)
    return packed(model, schemes, plan.format)


def _gguf_type(plan: Plan, name: str, overrides: Sequence[str] = ()) -> FileType:
    return file_type(name, overrides, calibrated=plan.method != "rtn")


def _all_formats(model: Described, plan: Plan) -> tuple[list[Artifact], list[tuple[str, str]]]:
    """Artifacts in all formats and types that can hold the model, and reasons for the others."""
    layouts = [
        plan.onnx,
        OnnxOptions(embedding="int4", head="int8"),
        OnnxOptions(embedding="fp16", head="fp16"),
        OnnxOptions(embedding="fp32", head="int4"),
    ]
    schemes = plan.schemes(model.config)
    makers: list[tuple[str, Callable[[], Artifact]]] = [
        (name, partial(packed, model, schemes, name)) for name in PACKED
    ]
    makers += [
        (f"{ONNX} {number}", partial(onnx, model, schemes, layout))
        for number, layout in enumerate(dict.fromkeys(layouts))
    ]
    makers += [
        (f"{GGUF} {name}", partial(gguf, model, _gguf_type(plan, name))) for name in FILE_TYPES
    ]
    artifacts: list[Artifact] = []
    refused: list[tuple[str, str]] = []
    for name, make in makers:
        try:
            artifacts.append(make())
        except SchemeError as error:
            refused.append((name, str(error)))
    return artifacts, refused


def _judge(
    model: Described, plan: Plan, chosen: Artifact, memory: RunMemory, device: Device
) -> DeviceFit:
    def longest(limit: int) -> int:
        return largest_context(model.config, chosen, limit, plan.kv_type, plan.onnx)

    ceiling = None
    if device.bandwidth is not None:
        ceiling = tokens_per_second(chosen, memory, device.bandwidth)
    return DeviceFit(
        device,
        device.verdict(memory.needed),
        longest(device.usable),
        None if device.entitled is None else longest(device.entitled),
        ceiling,
    )


def _memory(entry: RunMemory) -> dict[str, Any]:
    return {
        **asdict(entry),
        "dirty": entry.dirty,
        "needed": entry.needed,
        "resident": entry.resident,
    }


def _verdict(fit: DeviceFit) -> dict[str, Any]:
    return {
        **asdict(fit.device),
        "verdict": fit.verdict.value,
        "largest_context": fit.largest_context,
        "entitled_context": fit.entitled_context,
        "tokens_per_second_ceiling": fit.ceiling,
    }
