"""Devices that compute: the CPU, a CUDA GPU, or Apple's GPU (MPS)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from phi3quant.errors import DeviceError, MemoryLimitError
from phi3quant.model.wide_products import wide_products

CPU = torch.device("cpu")
AUTO = "auto"
NAMES = (AUTO, "cpu", "cuda", "cuda:N", "mps")
"""Forms of a device's name."""

_FORM = f"choose {', '.join(NAMES[:-1])} or {NAMES[-1]}"


def find_device(name: str = AUTO) -> torch.device:
    """Device by its name; ``auto`` takes the first CUDA GPU if it works, or else the CPU.

    Raises:
        DeviceError: the name has another form, or there is no such device.
    """
    kind, _, number = name.partition(":")
    if name == AUTO:
        first = torch.device("cuda", 0)
        return first if torch.cuda.is_available() and not _trouble(first) else CPU
    if name == "cpu":
        return CPU
    if name == "mps":
        return _mps()
    if kind == "cuda" and (name == kind or number.isdecimal()):
        return _cuda(int(number or 0))
    raise DeviceError(f"there is no device {name!r}; {_FORM}")


def _cuda(number: int) -> torch.device:
    if torch.version.cuda is None and torch.version.hip is None:
        raise DeviceError(
            f"torch {torch.__version__} was built without CUDA; install a build with it, "
            "or pass --device cpu"
        )
    if not torch.cuda.is_available():
        raise DeviceError(f"torch finds no usable CUDA GPU{_why_not()}; pass --device cpu")
    count = torch.cuda.device_count()
    if number >= count:
        there = "only cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise DeviceError(f"there is no GPU cuda:{number}, {there}")
    device = torch.device("cuda", number)
    trouble = _trouble(device)
    if trouble:
        raise DeviceError(f"{device} can't compute ({trouble}); pass --device cpu")
    return device


def _trouble(device: torch.device) -> str:
    """Error of a first computation, such as a card that this build of torch has no code for."""
    try:
        float(torch.ones(1, device=device) + 1)
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return ""


def _why_not() -> str:
    """Reason that CUDA can't start, such as a driver that is too old, as an addition to a text."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return f" ({str(error).splitlines()[0]})"
    return ""


def _mps() -> torch.device:
    if not torch.backends.mps.is_available():
        raise DeviceError("this machine or this build of torch has no MPS; pass --device cpu")
    return torch.device("mps")


def device_name(device: torch.device) -> str:
    """Name for people and manifests, such as ``cuda:0 (NVIDIA H100 80GB HBM3)``."""
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device; None if it doesn't report them."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return None


@contextmanager
def computing_on(device: torch.device, limit: int | None = None) -> Iterator[None]:
    """Compute on a device, with its fastest products and errors that help if its memory is full.

    Args:
        device: device that computes.
        limit: limit on bytes of a CUDA GPU's memory; None for all.

    Raises:
        MemoryLimitError: the device has no memory left.
    """
    if device.type != "cuda":
        with wide_products():
            yield
        return
    total = torch.cuda.get_device_properties(device).total_memory
    share = 1.0 if limit is None else min(1.0, limit / total)
    torch.cuda.set_per_process_memory_fraction(share, device)
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryLimitError(
            f"the GPU is out of memory ({str(error).split('. ')[0]}); close other programs that "
            "use it, pass a smaller --max-memory so that hidden states are kept elsewhere, use "
            "fewer --samples, or pass --device cpu"
        ) from None
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        # Other programs can have what this one no longer needs.
        torch.cuda.empty_cache()


def double(x: torch.Tensor) -> torch.Tensor:
    """``x`` as FP64, on the CPU if its device has no FP64 (MPS)."""
    return x.cpu().double() if x.device.type == "mps" else x.double()
