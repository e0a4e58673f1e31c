"""Generated parts of a document, between markers in HTML comments."""

from pathlib import Path


def replace_between(document: Path, name: str, text: str) -> None:
    """Replace the text between the markers with this name.

    A missing document is created with the markers only.

    Raises:
        ValueError: the document doesn't have both markers in this order.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = document.read_text(encoding="utf-8") if document.exists() else f"{begin}\n{end}\n"
    before, opened, rest = old.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise ValueError(f"{document} needs the lines {begin} and {end}")
    document.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
