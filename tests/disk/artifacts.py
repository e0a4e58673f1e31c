"""Small artifacts made in a workspace, for tests."""

import os
from collections.abc import Callable
from pathlib import Path

from phi3quant.disk.output import MANIFEST, write_json
from phi3quant.disk.workspace import open_workspace
from phi3quant.errors import ResumeError


def fill(folder: Path, content: str = "new") -> None:
    """An artifact of one file."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "data").write_text(content)
    write_json(folder / MANIFEST, {"schema": 1, "files": {"data": {}}})


def make(output: Path, *, overwrite: bool = False, content: str = "new") -> None:
    with open_workspace(output, overwrite=overwrite) as workspace:
        fill(workspace.begin_draft(), content)
        workspace.publish()


def fail(output: Path, error: BaseException, *, overwrite: bool = False) -> None:
    with open_workspace(output, overwrite=overwrite) as workspace:
        fill(workspace.begin_draft())
        raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def in_child(work: Callable[[], None]) -> int:
    """The exit code of a forked process; 7 for ResumeError."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except ResumeError:
            code = 7
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
