"""Names of a checkpoint's tensors, translated to those of Phi3ForCausalLM.

Wrappers put prefixes in front of names, a bare decoder lacks the prefix ``model.``, Llama models
have matrices apart that Phi-3 has joined, and multimodal models have parts besides the text model.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from phi3quant.errors import CheckpointError
from phi3quant.model.architecture import SPLITS, block_tensor_name, part_shapes
from phi3quant.model.config import Phi3Config
from phi3quant.model.dialects import DIALECTS, PHI3
from phi3quant.source.tensor_folder import (
    PACKED_DTYPE,
    TensorEntry,
    TensorFolder,
    check_tensors,
)
from phi3quant.units import count, size

WRAPPERS: Mapping[str, str] = {
    "_orig_mod.": "torch.compile",
    "module.": "DataParallel",
    "base_model.model.": "PEFT",
}
"""Prefixes that wrappers put in front of names, with the tool that adds each."""

_COMPILED, _BASE_LAYER = "_orig_mod.", ".base_layer."
_BARE = re.compile(r"(layers\.\d|embed_tokens\.|norm\.)")
_INNER_ADAPTER = re.compile(r"(.+\.lora_[AB])\.(\w+)(\.weight)")


@dataclass(frozen=True)
class TextModel:
    """Tensors of a checkpoint's text model, named as in Phi3ForCausalLM.

    Attributes:
        store: the tensors.
        adapters: tensors of adapters inside the checkpoint, by the adapters' names. They are not
            applied.
    """

    store: TensorFolder
    adapters: Mapping[str, TensorFolder] = field(default_factory=dict)


def text_model(store: TensorFolder, config: Phi3Config) -> TextModel:
    """Find the text model among the tensors of a checkpoint.

    Raises:
        CheckpointError: two tensors have the same name without their prefixes, or a part of a
            joined matrix is missing or has a wrong shape or dtype.
    """
    plain, notes = _without_wrappers(store)
    if config.stored_type != PHI3:
        notes.append(f"model_type {config.stored_type!r} is read as the equal {PHI3!r} model")
    outside: dict[str, dict[str, TensorEntry]] = {}
    dialect = DIALECTS[config.stored_type]
    text: dict[str, TensorEntry] = {}
    inner: dict[str, dict[str, TensorEntry]] = {name: {} for name in dialect.adapters}
    for name, entry in plain.items():
        part = next((dialect.outside[p] for p in dialect.outside if name.startswith(p)), None)
        match = _INNER_ADAPTER.fullmatch(name)
        if part is not None:
            outside.setdefault(part, {})[name] = entry
        elif match is not None and match[2] in inner:
            inner[match[2]][match[1] + match[3]] = entry
        else:
            text[name.replace(_BASE_LAYER, ".") if inner else name] = entry
    for part, tensors in outside.items():
        left_out = replace(store, tensors=tensors)
        notes.append(
            f"the {part} ({count(len(tensors), 'tensor')}, {size(left_out.nbytes())}) is not part "
            "of the text model and is left out"
        )
    adapters = {name: replace(store, tensors=sides) for name, sides in inner.items() if sides}
    if adapters:
        notes.append(
            f"the checkpoint contains adapters ({', '.join(adapters)}) that are not applied to "
            f"text; --adapter {next(iter(adapters))} merges one"
        )
    text = _joined(replace(store, tensors=text), config)
    return TextModel(replace(store, tensors=text, notes=(*store.notes, *notes)), adapters)


def _without_wrappers(store: TensorFolder) -> tuple[dict[str, TensorEntry], list[str]]:
    """Entries by names without the prefixes of wrappers, and a note on each wrapper."""
    plain: dict[str, TensorEntry] = {}
    wrappers: dict[str, None] = {}
    for name, entry in store.tensors.items():
        short = name
        while prefix := next((each for each in WRAPPERS if short.startswith(each)), None):
            short = short.removeprefix(prefix)
            wrappers[prefix] = None
        if _COMPILED in short:
            # torch.compile of single layers puts it inside the name.
            short = short.replace(_COMPILED, "")
            wrappers[_COMPILED] = None
        if _BARE.match(short):
            short = f"model.{short}"
        if short in plain:
            raise CheckpointError(
                f"{store.folder} has {short} twice: as {plain[short].pieces[0].name} in "
                f"{plain[short].file.name} and as {name} in {entry.file.name}"
            )
        plain[short] = entry
    notes = [
        f"the names of the tensors have the prefix {prefix!r} of {WRAPPERS[prefix]}; it is ignored"
        for prefix in wrappers
    ]
    return plain, notes


def _joined(store: TensorFolder, config: Phi3Config) -> dict[str, TensorEntry]:
    """Join plain matrices that are stored apart, where Phi-3 has one matrix.

    Each part's shape is checked here, since the sum of their rows doesn't show wrong parts.
    """
    tensors = dict(store.tensors)
    for index in range(config.num_hidden_layers):
        for key in SPLITS:
            whole = block_tensor_name(index, key)
            shapes = part_shapes(index, key, config)
            present = [tensors[name] for name in shapes if name in tensors]
            if whole in tensors or all(entry.dtype == PACKED_DTYPE for entry in present):
                continue
            check_tensors(store, shapes)
            entries = [tensors.pop(name) for name in shapes]
            tensors[whole] = TensorEntry(
                entries[0].dtype, tuple(entry.pieces[0] for entry in entries)
            )
    return tensors
