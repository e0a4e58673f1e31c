"""Complete outputs before they are published, and their verification."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from converters.format import Source
from converters.onnx.reader import OnnxModel
from phi3quant.disk.workspace import Workspace
from phi3quant.errors import Phi3QuantError
from phi3quant.provenance import sealing
from phi3quant.source.opened_model import OpenedModel
from phi3quant.source.stored_model import StoredWeights


@dataclass(frozen=True)
class Draft:
    """Files of an output that are still in its workspace.

    Attributes:
        source: model that was converted.
        folders: folder of each format, by its name; the first is the output folder itself.
        places: final place of each folder.
    """

    source: OpenedModel[StoredWeights | OnnxModel]
    folders: Mapping[str, Path]
    places: Mapping[str, Path]


class Judge(Protocol):
    """Scorer of drafts, so that an output is published together with its verification."""

    def prepare(self, source: Source) -> None:
        """Check before any work that drafts can be scored.

        Raises:
            Phi3QuantError: the text or the tokenizer can't be used.
        """

    def __call__(self, draft: Draft) -> Mapping[str, Mapping[str, Any]]:
        """Return a verification for the manifest of each format, by its name.

        Raises:
            Phi3QuantError: the draft can't be read back and must not be published.
        """


def draft_of(
    workspace: Workspace, source: OpenedModel[StoredWeights | OnnxModel], formats: list[str]
) -> Draft:
    """Create an empty draft.

    Args:
        workspace: workspace of the output.
        source: model to convert.
        formats: names of formats; the first is the output folder itself, others are folders in it.

    Raises:
        OutputError: the folder can't be created.
    """
    root = workspace.begin_draft()
    inside = {name: Path() if number == 0 else Path(name) for number, name in enumerate(formats)}
    return Draft(
        source,
        {name: root / path for name, path in inside.items()},
        {name: workspace.output / path for name, path in inside.items()},
    )


def publish(
    workspace: Workspace,
    draft: Draft,
    manifests: Mapping[str, Mapping[str, Any]],
    hashed: Mapping[str, Mapping[str, Mapping[str, Any]]],
    judge: Judge | None,
) -> None:
    """Score a draft, write its manifests, and move it to its place.

    Args:
        workspace: workspace with the draft.
        draft: draft that is complete except for its manifests.
        manifests: manifests from phi3quant.provenance.manifest.describe, by format.
        hashed: entries of files that were hashed while they were written, by format.
        judge: verification of the draft; None to skip it.

    Raises:
        Phi3QuantError: the draft can't be read back or the system refuses; nothing is published.
    """
    records: Mapping[str, Mapping[str, Any]] = {}
    if judge is not None:
        try:
            records = judge(draft)
        except Phi3QuantError as error:
            # The message must contain the path of the output, not of the draft.
            error.args = (str(error).replace(str(workspace.draft), str(workspace.output)),)
            raise
    # Inner folders first: a manifest leaves out folders that have manifests.
    for name, folder in reversed(list(draft.folders.items())):
        manifest = {**manifests[name], "verification": records.get(name)}
        sealing.seal(folder, manifest, hashed[name])
    workspace.publish()
