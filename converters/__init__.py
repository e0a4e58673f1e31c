"""Formats: one writer and reader each, and a table of them.

A writer takes codes, scales and folded norms; it can't tell RTN from AWQ.
"""

from collections.abc import Mapping
from pathlib import Path

from converters import to_awq_gemm, to_compressed_tensors
from converters.layout import PackedLayout
from converters.packed import PackedCheckpoint, open_packed
from phi3quant.checkpoint import Checkpoint, open_checkpoint, open_tensors
from phi3quant.config import read_config
from phi3quant.errors import CheckpointError, SchemeError

LAYOUTS: Mapping[str, PackedLayout] = {
    layout.name: layout for layout in (to_compressed_tensors.LAYOUT, to_awq_gemm.LAYOUT)
}
"""Layouts of packed checkpoints by their name on the command line; the first is the default."""


def open_model(folder: Path) -> Checkpoint | PackedCheckpoint:
    """Open a folder of any kind that can be read: plain, or quantized in one of LAYOUTS.

    Raises:
        ConfigError: config.json is missing or not Phi-3.
        CheckpointError: weights are missing, truncated, mis-shaped, or quantized by other means.
        SchemeError: the quantization is of a known layout in a form that can't be read.
    """
    config = read_config(folder)
    described = config.raw.get("quantization_config")
    if described is None:
        return open_checkpoint(folder)
    if not isinstance(described, Mapping):
        raise CheckpointError(f"{folder}/config.json: quantization_config is not an object")
    for layout in LAYOUTS.values():
        try:
            scheme = layout.recognise(described)
            if scheme is not None:
                return open_packed(open_tensors(folder), config, scheme, layout)
        except SchemeError as error:
            raise SchemeError(f"{folder}: {error}") from None
    raise CheckpointError(
        f"{folder} is quantized by {described.get('quant_method')!r}, which can't be read; "
        f"known are {', '.join(LAYOUTS)}"
    )
