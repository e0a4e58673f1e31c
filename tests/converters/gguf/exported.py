"""GGUF files of models, for tests."""

from pathlib import Path

from converters.gguf.type_policy import file_type
from phi3quant.run.export import export_gguf


def export(source: str | Path, output: Path, kind: str | None = None) -> Path:
    folder = export_gguf(source, output, kind=file_type(kind) if kind else None).folders["gguf"]
    (file,) = folder.glob("*.gguf")
    return file
