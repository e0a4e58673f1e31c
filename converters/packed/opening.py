"""Opening of packed checkpoints: headers are checked against config.json."""

from collections.abc import Collection, Iterator, Mapping

from converters.packed.layout import PackedLayout, Stated
from converters.packed.reader import PackedCheckpoint, matrices
from converters.packed.sizes import packed_name, packed_tensors
from phi3quant.disk.tensor_plan import PlannedTensor
from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.model.architecture import EMBEDDING, HEAD
from phi3quant.model.config import Phi3Config
from phi3quant.quant.scheme import QuantScheme
from phi3quant.source.checkpoint import untied_if_different
from phi3quant.source.tensor_folder import FLOAT_DTYPES, TensorFolder, check_tensors
from phi3quant.source.unread_tensors import refuse_explained, refuse_unread

_PACKED_DTYPE = "U32"
"""Type of packed matrices that are stored under the name of the plain one."""


def open_packed(
    store: TensorFolder, stored_config: Phi3Config, stated: Stated, layout: PackedLayout
) -> PackedCheckpoint:
    """Open a packed checkpoint after checking its headers against config.json.

    Raises:
        CheckpointError: a tensor is missing, has another dtype or shape, or is not quantized.
        SchemeError: the scheme doesn't fit the model.
    """
    config, notes = untied_if_different(store, stored_config)
    layout.check(stated.scheme, config)
    plain = _plain_matrices(store, config, stated)
    schemes = _schemes(store, config, stated, layout, plain)
    planned = _planned_tensors(store, config, stated, layout, plain, schemes)
    known = {HEAD, *(spec.name for spec in planned), *_zero_biases(store, config)}
    refuse_explained(store.folder, store.tensors, known, config)
    floats: dict[str, tuple[int, ...]] = {}
    for spec in planned:
        stored = store.tensors.get(spec.name)
        if spec.dtype in FLOAT_DTYPES:
            floats[spec.name] = spec.shape
        elif stored is None:
            raise CheckpointError(f"{store.folder} has no tensor {spec.name}")
        elif stored.shape != spec.shape or stored.dtype != spec.dtype:
            raise CheckpointError(
                f"tensor {spec.name} in {stored.file} is {stored.dtype} {list(stored.shape)}; "
                f"config.json requires {spec.dtype} {list(spec.shape)}"
            )
    check_tensors(store, floats)
    notes += refuse_unread(store.folder, store.tensors, known, config)
    return PackedCheckpoint(
        store.folder,
        config,
        store,
        (*store.notes, *notes),
        scheme=stated.scheme,
        layout=layout,
        unpack=stated.unpack or layout.unpack,
        grouped_by_index=stated.grouped_by_index,
        plain=plain,
        schemes=schemes,
        real_offsets=layout.unpack_offsets is not None,
    )


def _schemes(
    store: TensorFolder,
    config: Phi3Config,
    stated: Stated,
    layout: PackedLayout,
    plain: Collection[str],
) -> dict[str, QuantScheme]:
    """Schemes of all packed matrices by name, the embedding and an untied head included.

    Raises:
        SchemeError: config.json has a scheme for a module that the model doesn't have.
        CheckpointError: it has one for a plain embedding or head, or calls a packed one plain.
    """
    names = [name for name, _ in matrices(config) if name not in plain]
    outer = [EMBEDDING] if config.tie_word_embeddings else [EMBEDDING, HEAD]
    if layout.unpack_offsets is not None:
        stored = ((name, store.tensors.get(name)) for name in outer)
        packed = [name for name, entry in stored if entry and entry.dtype == _PACKED_DTYPE]
        for name in outer:
            module = name.removesuffix(".weight")
            if (module in stated.plain) if name in packed else (module in stated.schemes):
                raise CheckpointError(
                    f"the quantization of {store.folder} has an entry for {module} that doesn't "
                    "fit the stored tensor; the file and config.json don't belong together"
                )
        names += packed
    known = {name.removesuffix(".weight") for name in [*outer, *dict(matrices(config))]}
    unknown = [module for module in (*stated.schemes, *stated.plain) if module not in known]
    if unknown and not stated.lists_plain:
        raise SchemeError(
            f"the quantization has the unknown key {unknown[0]!r}, which is not a module of the "
            "model"
        )
    return {name: stated.schemes.get(name.removesuffix(".weight"), stated.scheme) for name in names}


def _planned_tensors(
    store: TensorFolder,
    config: Phi3Config,
    stated: Stated,
    layout: PackedLayout,
    plain: Collection[str],
    schemes: Mapping[str, QuantScheme],
) -> list[PlannedTensor]:
    """Tensors that the checkpoint must have.

    An index of groups is required if columns may be in any order, and optional otherwise.
    """
    planned = packed_tensors(config, stated.scheme, layout.specify, plain, schemes)
    if layout.group_index is None:
        return planned
    indices = {
        packed_name(name, layout.group_index): columns
        for name, (_, columns) in matrices(config)
        if name not in plain
    }
    if not stated.grouped_by_index:
        absent = indices.keys() - store.tensors.keys()
        return [spec for spec in planned if spec.name not in absent]
    others = [spec for spec in planned if spec.name not in indices]
    return others + [PlannedTensor(name, "I32", (columns,)) for name, columns in indices.items()]


def _zero_biases(store: TensorFolder, config: Phi3Config) -> Iterator[str]:
    """Names of biases that are zero, which AutoGPTQ writes for every matrix."""
    for name, (rows, _) in matrices(config):
        bias = store.tensors.get(packed_name(name, "bias"))
        if bias is not None and bias.dtype in FLOAT_DTYPES and bias.shape == (rows,):
            values = store.load(packed_name(name, "bias"))
            if not values.any():
                yield packed_name(name, "bias")


def _plain_matrices(store: TensorFolder, config: Phi3Config, stated: Stated) -> frozenset[str]:
    """Names of the matrices that are stored plain, which config.json must list.

    Raises:
        CheckpointError: config.json and the tensors contradict each other.
    """
    plain = frozenset(
        name
        for name, _ in matrices(config)
        if name in store.tensors and store.tensors[name].dtype != _PACKED_DTYPE
    )
    for name, _ in matrices(config):
        module = name.removesuffix(".weight")
        if name in plain and not stated.may_be_plain(module):
            raise CheckpointError(
                f"{store.folder} stores {module} plain, which its quantization_config doesn't "
                "list; the file and config.json don't belong together"
            )
        if name not in plain and module in stated.plain:
            raise CheckpointError(
                f"the quantization_config of {store.folder} lists {module} as plain, but there is "
                f"no plain tensor {name}; the file and config.json don't belong together"
            )
    return plain
