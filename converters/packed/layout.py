"""Layouts of packed checkpoints: tensors of one matrix, and their description."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from converters.packed.sizes import OuterSchemes, Split, never_split, plain_outer
from phi3quant.disk.tensor_plan import PlannedTensor
from phi3quant.errors import SchemeError
from phi3quant.model.config import Phi3Config, shown
from phi3quant.quant.matrix_schemes import MatrixSchemes
from phi3quant.quant.offset_tensor import OffsetTensor
from phi3quant.quant.scheme import QuantScheme
from phi3quant.quant.tensor import QuantizedTensor


class Specify(Protocol):
    """Plan of the tensors that hold a matrix of a given shape."""

    def __call__(self, rows: int, columns: int, scheme: QuantScheme) -> list[PlannedTensor]:
        """Return planned tensors whose names are endings, such as ``qweight``."""


Unpack = Callable[[Mapping[str, torch.Tensor], tuple[int, int], QuantScheme], QuantizedTensor]
"""Function of (tensors by ending, shape of the matrix, scheme) that restores a matrix."""

UnpackOffsets = Callable[[Mapping[str, torch.Tensor], tuple[int, int], QuantScheme], OffsetTensor]
"""The same for layouts that store real offsets."""


@dataclass(frozen=True)
class ModuleRule:
    """Scheme of the modules that an entry of a ``quantization_config`` names.

    Attributes:
        entry: the entry, for messages.
        name: name of a module, or a regular expression for the start of names.
        scheme: scheme of these modules; None if they are plain.
        is_expression: whether ``name`` is a regular expression.
    """

    entry: str
    name: str
    scheme: QuantScheme | None
    is_expression: bool = True


@dataclass(frozen=True)
class Stated:
    """Facts in a ``quantization_config`` that reading requires.

    Attributes:
        scheme: scheme of all matrices.
        plain: names of the modules that are not quantized, parts of such names, or patterns that
            begin with ``re:``.
        grouped_by_index: whether a tensor maps each column to its group, in any order.
        unpack: function in place of the layout's ``unpack``, for variants of a layout.
        schemes: schemes of single modules; all others have ``scheme``.
        lists_plain: whether ``plain`` lists all plain matrices of the blocks.
        rules: further schemes of modules; the first rule that matches counts.
        others_plain: whether modules without a rule are plain, instead of having ``scheme``.
    """

    scheme: QuantScheme
    plain: tuple[str, ...] = ()
    grouped_by_index: bool = False
    unpack: Unpack | None = None
    schemes: Mapping[str, QuantScheme] = field(default_factory=dict)
    lists_plain: bool = True
    rules: tuple[ModuleRule, ...] = ()
    others_plain: bool = False

    def may_be_plain(self, module: str) -> bool:
        """Whether ``plain`` allows a module to be stored plain.

        Patterns come from untrusted files and may take forever, so they are not evaluated.
        """
        if not self.lists_plain:
            return module not in self.schemes
        return any(entry in module or entry.startswith("re:") for entry in self.plain)


@dataclass(frozen=True)
class Keys:
    """Supported keys of a section of a ``quantization_config``.

    Attributes:
        section: name of the section, for messages.
        free: keys with any value: they are read elsewhere, or don't affect stored weights.
        fixed: keys that affect stored weights, with the values that are implemented.
    """

    section: str
    free: Collection[str]
    fixed: Mapping[str, tuple[Any, ...]]

    def check(self, described: Mapping[str, Any]) -> None:
        """Refuse keys and values that are not supported, since ignoring them may change weights.

        Raises:
            SchemeError: there is one; the message has the key.
        """
        for key, value in described.items():
            if key in self.free:
                continue
            allowed = self.fixed.get(key)
            if allowed is None:
                raise SchemeError(
                    f"{self.section} has the unknown key {key!r}, which may change weights"
                )
            if not any(type(value) is type(known) and value == known for known in allowed):
                raise SchemeError(
                    f"{self.section} has {key} {shown(value)}, which isn't supported; it must be "
                    f"{' or '.join(map(repr, allowed))}"
                )


@dataclass(frozen=True)
class PackedLayout:
    """Layout of quantized matrices in safetensors.

    Attributes:
        name: name on the command line.
        title: name in messages.
        check: raises SchemeError if the layout can't hold these schemes for this model.
        specify: plans the tensors of one matrix, in the order of ``pack``.
        pack: converts a matrix to tensors, by ending, given the schemes of all matrices.
        unpack: restores a matrix from its tensors by ending, its shape and its scheme.
        describe: builds the description of the matrices' schemes in config.json.
        recognise: reads such a description; returns None for another layout, and raises
            SchemeError for this layout in an unsupported form.
        group_index: ending of the tensor that maps columns to groups, int32 [columns]; None if the
            layout has none. If ``specify`` plans it, consecutive groups may have it too.
        config_keys: keys of config.json with the description.
        adapt_config: gives further keys of config.json, for readers that need them.
        notes: gives notes on readers that compute a model in another way, or don't load it.
        library: name of the library in the metadata of the files.
        pack_offsets: converts a matrix whose offsets fit FP16, for layouts that store offsets in
            place of zero points, as ``scales`` and ``biases``. Such layouts may pack embedding and
            head too.
        unpack_offsets: restores such a matrix.
        outer: gives the schemes of embedding and head by name, as far as they are packed.
        split: chooses the matrices that are written in parts.
    """

    name: str
    title: str
    check: Callable[[MatrixSchemes, Phi3Config], None]
    specify: Specify
    pack: Callable[[QuantizedTensor, MatrixSchemes], Mapping[str, torch.Tensor]]
    unpack: Unpack
    describe: Callable[[MatrixSchemes], dict[str, Any]]
    recognise: Callable[[Mapping[str, Any]], Stated | None]
    group_index: str | None = None
    config_keys: tuple[str, ...] = ("quantization_config",)
    adapt_config: Callable[[Phi3Config], Mapping[str, Any]] = lambda _config: {}
    notes: Callable[[Phi3Config, MatrixSchemes], Iterable[str]] = lambda _config, _schemes: ()
    library: str = "pt"
    pack_offsets: Callable[[OffsetTensor], Mapping[str, torch.Tensor]] | None = None
    unpack_offsets: UnpackOffsets | None = None
    outer: OuterSchemes = plain_outer
    split: Split = never_split
