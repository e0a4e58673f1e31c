"""Opening of packed checkpoints: headers are checked against config.json."""

from collections.abc import Collection, Iterator
from dataclasses import replace

from converters.packed.layout import PackedLayout, Stated
from converters.packed.module_patterns import matching_names
from converters.packed.reader import PackedCheckpoint, matrices
from converters.packed.sizes import SplitMatrices, packed_name, packed_tensors
from converters.packed.split_matrices import module_of, of_whole_matrices, split_matrices
from phi3quant.disk.tensor_plan import PlannedTensor
from phi3quant.errors import CheckpointError, SchemeError
from phi3quant.model.architecture import EMBEDDING, HEAD
from phi3quant.model.config import Phi3Config
from phi3quant.quant.matrix_schemes import MatrixSchemes, matrix_schemes
from phi3quant.quant.scheme import QuantScheme
from phi3quant.source.checkpoint import untied_if_different
from phi3quant.source.tensor_folder import (
    FLOAT_DTYPES,
    PACKED_DTYPE,
    TensorFolder,
    check_tensors,
)
from phi3quant.source.unread_tensors import refuse_explained, refuse_unread


def open_packed(
    store: TensorFolder, stored_config: Phi3Config, stated: Stated, layout: PackedLayout
) -> PackedCheckpoint:
    """Open a packed checkpoint after checking its headers against config.json.

    Raises:
        CheckpointError: a tensor is missing, has another dtype or shape, or is not quantized.
        SchemeError: the schemes don't fit the model, or are stated in an unsupported form.
    """
    config, notes = untied_if_different(store, stored_config)
    split = split_matrices(store, config)
    stated = of_whole_matrices(by_module(stated, config, split), split, store)
    plain = _plain_matrices(store, config, stated)
    names = [name for name, _ in matrices(config) if name not in plain]
    stated_schemes = {name: _scheme(stated, name) for name in names}
    schemes = matrix_schemes(stated_schemes) if names else MatrixSchemes(stated.scheme)
    layout.check(schemes, config)
    outer = _outer(store, config, stated, layout)
    packed = packed_tensors(config, schemes, layout.specify, plain, outer, split)
    packed_apart = {name: parts for name, parts in split.items() if name not in plain}
    planned = _with_indices(packed, store, config, stated, layout, plain, packed_apart)
    known = {HEAD, *(spec.name for spec in planned), *_zero_biases(store, config, packed_apart)}
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
        schemes=schemes,
        layout=layout,
        unpack=stated.unpack or layout.unpack,
        grouped_by_index=stated.grouped_by_index,
        plain=plain,
        outer=outer,
        split=packed_apart,
        real_offsets=layout.unpack_offsets is not None,
    )


def _scheme(stated: Stated, name: str) -> QuantScheme:
    return stated.schemes.get(module_of(name), stated.scheme)


def by_module(stated: Stated, config: Phi3Config, split: SplitMatrices) -> Stated:
    """The same facts with a scheme for each stored module in place of rules.

    Raises:
        SchemeError: a rule matches no matrix of the blocks, or can't be evaluated.
    """
    modules = [module_of(part) for name, _ in matrices(config) for part in split.get(name, (name,))]
    known = frozenset(modules)
    expressions = [rule.name for rule in stated.rules if rule.is_expression]
    by_expression = dict(zip(expressions, matching_names(expressions, modules), strict=True))
    schemes, plain = dict(stated.schemes), list(stated.plain)
    settled: set[str] = set()
    for rule in stated.rules:
        matches = by_expression[rule.name] if rule.is_expression else known & {rule.name}
        if not matches and rule.scheme is not None:
            raise SchemeError(
                f"{rule.entry} matches no matrix of the model's blocks, whose names look like "
                f"{modules[0]}"
            )
        for module in sorted(matches - settled):
            if rule.scheme is None:
                plain.append(module)
            else:
                schemes[module] = rule.scheme
        settled |= matches
    if stated.others_plain:
        plain += [module for module in modules if module not in settled]
    return replace(stated, schemes=schemes, plain=tuple(plain), rules=(), others_plain=False)


def _outer(
    store: TensorFolder, config: Phi3Config, stated: Stated, layout: PackedLayout
) -> dict[str, QuantScheme]:
    """Schemes of packed embedding and untied head by name.

    Raises:
        SchemeError: config.json has a scheme for a module that the model doesn't have.
        CheckpointError: it has one for a plain embedding or head, or calls a packed one plain.
    """
    names = [EMBEDDING] if config.tie_word_embeddings else [EMBEDDING, HEAD]
    packed: list[str] = []
    if layout.unpack_offsets is not None:
        stored = ((name, store.tensors.get(name)) for name in names)
        packed = [name for name, entry in stored if entry and entry.dtype == PACKED_DTYPE]
        for name in names:
            module = module_of(name)
            if (module in stated.plain) if name in packed else (module in stated.schemes):
                raise CheckpointError(
                    f"the quantization of {store.folder} has an entry for {module} that doesn't "
                    "fit the stored tensor; the file and config.json don't belong together"
                )
    known = {module_of(name) for name in [*names, *dict(matrices(config))]}
    unknown = [module for module in (*stated.schemes, *stated.plain) if module not in known]
    if unknown and not stated.lists_plain:
        raise SchemeError(
            f"the quantization has the unknown key {unknown[0]!r}, which is not a module of the "
            "model"
        )
    return {name: _scheme(stated, name) for name in packed}


def _with_indices(
    planned: list[PlannedTensor],
    store: TensorFolder,
    config: Phi3Config,
    stated: Stated,
    layout: PackedLayout,
    plain: Collection[str],
    split: SplitMatrices,
) -> list[PlannedTensor]:
    """Tensors that the checkpoint must have.

    An index of groups is required if columns may be in any order, and optional otherwise.
    """
    if layout.group_index is None:
        return planned
    indices = {
        packed_name(part, layout.group_index): columns
        for name, (_, columns) in matrices(config)
        if name not in plain
        for part in split.get(name, (name,))
    }
    if not stated.grouped_by_index:
        absent = indices.keys() - store.tensors.keys()
        return [spec for spec in planned if spec.name not in absent]
    others = [spec for spec in planned if spec.name not in indices]
    return others + [PlannedTensor(name, "I32", (columns,)) for name, columns in indices.items()]


def _zero_biases(store: TensorFolder, config: Phi3Config, split: SplitMatrices) -> Iterator[str]:
    """Names of biases that are zero, which AutoGPTQ writes for every matrix."""
    stored = (split.get(name, {name: shape}) for name, shape in matrices(config))
    for part, (rows, _) in (each for parts in stored for each in parts.items()):
        name = packed_name(part, "bias")
        bias = store.tensors.get(name)
        is_bias = bias is not None and bias.dtype in FLOAT_DTYPES and bias.shape == (rows,)
        if is_bias and not store.load(name).any():
            yield name


def _plain_matrices(store: TensorFolder, config: Phi3Config, stated: Stated) -> frozenset[str]:
    """Names of the matrices that are stored plain, which config.json must list.

    Raises:
        CheckpointError: config.json and the tensors contradict each other.
    """
    plain = frozenset(
        name
        for name, _ in matrices(config)
        if name in store.tensors and store.tensors[name].dtype != PACKED_DTYPE
    )
    for name, _ in matrices(config):
        module = module_of(name)
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
