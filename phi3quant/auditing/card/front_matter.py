"""Front matter of a card: a small subset of YAML, read without a YAML parser.

Keys at the left margin with a scalar, an inline list or a block list of scalars are read. Nested
objects keep only their key. Tags, anchors and everything else stay text.
"""

from collections.abc import Mapping, Sequence

MARK = "---"
_MAX_KEYS, _MAX_ITEMS = 256, 1000


def split_front_matter(lines: Sequence[str]) -> tuple[Sequence[str], int]:
    """Lines of the front matter, and the index of the first line after it.

    A card without front matter, or whose front matter doesn't end, has none.
    """
    if not lines or lines[0].strip() != MARK:
        return (), 0
    end = next((at for at, line in enumerate(lines[1:], 1) if line.strip() == MARK), None)
    return ((), 0) if end is None else (lines[1:end], end + 1)


def parse_front_matter(lines: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Values by key; a scalar is a list of one, a nested object an empty list.

    Examples:
        >>> parse_front_matter(["license: mit", "datasets:", "- a", "tags: [b, 'c']  # two"])
        {'license': ['mit'], 'datasets': ['a'], 'tags': ['b', 'c']}
    """
    fields: dict[str, list[str]] = {}
    key = ""
    for line in lines:
        stripped = _without_comment(line).strip()
        if stripped.startswith("- ") and key and len(fields[key]) < _MAX_ITEMS:
            # Items of nested lists are deeper than those of the key itself.
            if len(line) - len(line.lstrip()) <= 2:
                fields[key] += _scalars(stripped[2:])
        elif line[:1].strip() and ":" in stripped and len(fields) < _MAX_KEYS:
            key, _, value = (part.strip() for part in stripped.partition(":"))
            fields[key] = _scalars(value)
    return fields


def _scalars(text: str) -> list[str]:
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        items = [_unquoted(item) for item in text[1:-1].split(",")[:_MAX_ITEMS]]
    else:
        items = [_unquoted(text)]
    return [item for item in items if item and item.lower() not in {"null", "~", "|", ">", "|-"}]


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _without_comment(line: str) -> str:
    return "" if line.lstrip().startswith("#") else line.split(" #", 1)[0]
