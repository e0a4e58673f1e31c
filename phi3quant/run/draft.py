"""An output that is complete but not in its place yet, and what may look at it there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from converters.format import Source
from phi3quant.disk.workspace import Workspace
from phi3quant.errors import Phi3QuantError
from phi3quant.provenance import sealing


@dataclass(frozen=True)
class Draft:
    """The files of an output, still in its workspace.

    Attributes:
        source: the model it was made from.
        folders: one for each format, by the format's name; the first is the output itself.
        places: where each of them is going to be.
    """

    source: Source
    folders: Mapping[str, Path]
    places: Mapping[str, Path]


class Judge(Protocol):
    """Scores drafts, so that an output has its verification in it from the first moment on."""

    def prepare(self, source: Source) -> None:
        """Refuse before any work what can't be scored on.

        Raises:
            Phi3QuantError: the text or the tokenizer can't be used.
        """

    def __call__(self, draft: Draft) -> Mapping[str, Mapping[str, Any]]:
        """A verification for each format's manifest, by the format's name.

        Raises:
            Phi3QuantError: the draft can't be read back; it is not published then.
        """


def draft_of(workspace: Workspace, source: Source, formats: list[str]) -> Draft:
    """An empty draft, ready to be written to.

    Args:
        workspace: of the output.
        source: the model that is being converted.
        formats: names; the first is the output folder itself, further ones are folders in it.

    Raises:
        OutputError: its folder can't be made.
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
    """Score a draft, put manifests into it, and give it its place.

    Args:
        workspace: holds the draft.
        draft: all files but the manifests are complete.
        manifests: by format, from phi3quant.provenance.manifest.describe.
        hashed: by format, entries of files that were hashed while they were written.
        judge: None: the output is not verified.

    Raises:
        Phi3QuantError: the draft can't be read back or the system refuses; nothing is published.
    """
    records: Mapping[str, Mapping[str, Any]] = {}
    if judge is not None:
        try:
            records = judge(draft)
        except Phi3QuantError as error:
            # People know the output by its own name.
            error.args = (str(error).replace(str(workspace.draft), str(workspace.output)),)
            raise
    # From the inside out: a folder's manifest passes over those within that have their own.
    for name, folder in reversed(list(draft.folders.items())):
        manifest = {**manifests[name], "verification": records.get(name)}
        sealing.seal(folder, manifest, hashed[name])
    workspace.publish()
