"""Parts of a document that a benchmark writes, between markers that a reader doesn't see."""

from pathlib import Path


def replace_between(document: Path, name: str, text: str) -> None:
    """Put ``text`` between the markers of this name.

    A document that isn't there is made with nothing but them.

    Raises:
        ValueError: the document has no such markers, in this order.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = document.read_text(encoding="utf-8") if document.exists() else f"{begin}\n{end}\n"
    before, opened, rest = old.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise ValueError(f"{document} needs the lines {begin} and {end}")
    document.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
