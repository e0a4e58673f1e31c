"""Licence: the licence file's text against what the card and the metadata state."""

import re
from collections.abc import Iterator, Mapping

from phi3quant.auditing.finding import Point, judged, not_shown, quoted, shown
from phi3quant.auditing.subject import Statement, Subject

_TEXTS: Mapping[str, tuple[str, ...]] = {
    "agpl-3.0": ("gnu affero general public license", "version 3"),
    "lgpl-3.0": ("gnu lesser general public license", "version 3"),
    "gpl-3.0": ("gnu general public license", "version 3"),
    "gpl-2.0": ("gnu general public license", "version 2"),
    "apache-2.0": ("apache license", "version 2.0"),
    "bsd-3-clause": ("redistribution and use in source and binary forms", "neither the name"),
    "bsd-2-clause": ("redistribution and use in source and binary forms",),
    "cc-by-nc-sa-4.0": ("attribution-noncommercial-sharealike 4.0",),
    "cc-by-nc-4.0": ("attribution-noncommercial 4.0",),
    "cc-by-sa-4.0": ("attribution-sharealike 4.0",),
    "cc-by-4.0": ("creative commons attribution 4.0",),
    "cc0-1.0": ("cc0 1.0 universal",),
    "llama": ("llama", "community license agreement"),
    "gemma": ("gemma terms of use",),
    "msr": ("microsoft research license terms",),
    "mpl-2.0": ("mozilla public license", "2.0"),
    "unlicense": ("free and unencumbered software released into the public domain",),
    "mit": ("permission is hereby granted, free of charge",),
}
"""Phrases that a licence's text contains, all of them; the first match counts."""
_NAMES: Mapping[str, str] = {
    "apache-2.0": r"apache[- ](?:licen[cs]e[, -]*)?(?:version )?2(?:\.0)?",
    "mit": r"mit(?: licen[cs]e)?",
    "gpl-3.0": r"gpl(?:[- ]?v?3(?:\.0)?)",
    "agpl-3.0": r"agpl(?:[- ]?v?3(?:\.0)?)",
    "cc-by-nc-4.0": r"cc[- ]by[- ]nc[- ]4\.0",
    "cc-by-sa-4.0": r"cc[- ]by[- ]sa[- ]4\.0",
    "cc-by-4.0": r"cc[- ]by[- ]4\.0",
    "bsd-3-clause": r"bsd[- ]3[- ]clause",
    "llama": r"llama ?[\d.]* community licen[cs]e",
}
"""Patterns of names in prose."""
_UNNAMED = ("other", "unknown")


def licence(subject: Subject) -> Iterator[Point]:
    """Points on licence files and statements."""
    recognised = {name: recognise(text) for name, text in subject.licences.items()}
    kinds = {kind for kind in recognised.values() if kind}
    for name, kind in recognised.items():
        words = len(subject.licences[name].split())
        yield shown(name, f"text of {kind}" if kind else f"{words:,} words, not a known licence")
    if not recognised:
        yield not_shown("", "there is no licence file")
    statements = _statements(subject)
    if not statements:
        yield not_shown("", "neither a card nor metadata states the licence")
    named = {each.value for each in statements}
    for each in statements:
        others = kinds or named
        differs = each.value not in others or (not kinds and len(named) > 1)
        comparable = each.value not in _UNNAMED and (kinds or len(named) > 1)
        text = f"states {quoted(each.value)}"
        if comparable and differs:
            stated = ", ".join(sorted(kinds or named - {each.value}))
            where = "the licence file is" if kinds else "elsewhere it is"
            text = f"{text}; {where} {quoted(stated)}"
        yield judged(each.place, text, holds=not (comparable and differs))


def recognise(text: str) -> str | None:
    """Name of the licence of a text, as in cards; None if it isn't known."""
    plain = " ".join(text.lower().split())
    return next(
        (name for name, phrases in _TEXTS.items() if all(phrase in plain for phrase in phrases)),
        None,
    )


def _statements(subject: Subject) -> list[Statement]:
    stated = subject.stated("license", "general.license")
    statements = [Statement(each.place, _normalised(each.value)) for each in stated]
    if not statements and subject.card:
        statements = [
            Statement(line.place, kind)
            for line in subject.card.section("license", "licence")
            if (kind := _in_prose(line.text))
        ][:1]
    return statements


def _normalised(text: str) -> str:
    """Name of a licence as in the table."""
    plain = text.strip().lower()
    if plain in _TEXTS or plain in _UNNAMED:
        return plain
    matches = [name for name, pattern in _NAMES.items() if re.fullmatch(pattern, plain)]
    # The hub names each version: llama3, llama3.1.
    return matches[0] if matches else "llama" if re.fullmatch(r"llama[\d.]+", plain) else plain


def _in_prose(text: str) -> str | None:
    return next(
        (
            name
            for name, pattern in _NAMES.items()
            if re.search(rf"(?<![\w-]){pattern}(?![\w-])", text, re.IGNORECASE)
        ),
        None,
    )
