"""Escaping of untrusted text for a terminal, a CI log, Markdown, JSON or XML.

File names, chat templates, manifests and generated text may contain anything. All code that shows
text passes it through one of these functions.
"""

import re

REPLACEMENT = "\ufffd"

# Control characters, surrogates, noncharacters and characters that change the direction of text.
_UNSEEN = (
    "\x00-\x08\x0b\x0c\x0d\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
)
_HIDDEN = re.compile(f"[{_UNSEEN}]")
# XML 1.0 can't hold these.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# GitHub Actions obeys lines that begin with "::", after spaces, and "##[" anywhere in a line; other
# systems obey "##vso[" and "##teamcity[".
_LINE_COMMAND = re.compile(r"^([^\S\n]*:)(?=:)", re.MULTILINE)
_COMMAND = re.compile(r"(##\w*)(?=\[)")
# Markdown's punctuation, with what GitHub adds to it.
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&#$])")


def visible(text: str) -> str:
    r"""Replace characters that can't be read; line breaks and tabs stay.

    Examples:
        >>> visible("a\x1b[31mb\r\nc")
        'a�[31mb\nc'
    """
    return _HIDDEN.sub(REPLACEMENT, text.replace("\r\n", "\n"))


def in_log(text: str) -> str:
    r"""Make text visible, and break commands to CI systems with a backslash.

    The result for the beginning of a text is the beginning of the result for the whole text, so
    that a text may be shown in pieces.

    Examples:
        >>> in_log("::error::no\n##[endgroup]")
        ':\\:error::no\n##\\[endgroup]'
    """
    return _COMMAND.sub(r"\1\\", _LINE_COMMAND.sub(r"\1\\", visible(text)))


def in_table(text: str) -> str:
    r"""Escape as ``in_log`` does, for text that will be wrapped, so that a line may start anywhere.

    Examples:
        >>> in_table("a ::error::")
        'a :\\:error:\\:'
    """
    return _COMMAND.sub(r"\1\\", visible(text).replace("::", ":\\:"))


def one_line(text: str) -> str:
    """Make text visible on one line, without runs of spaces."""
    return visible(" ".join(text.split()))


def in_markdown(text: str) -> str:
    r"""Escape text for one line of Markdown, including a cell of a table.

    Examples:
        >>> in_markdown("a|b <img src=x>")
        'a\\|b \\<img src=x\\>'
    """
    return _MARKDOWN.sub(r"\\\1", one_line(text))


def code_span(text: str) -> str:
    r"""Format text as a code span of Markdown on one line, including a cell of a table.

    Examples:
        >>> code_span("a`b|c")
        "`a'b\\|c`"
    """
    return f"`{one_line(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def in_json(text: str) -> str:
    r"""Escape JSON text so that a terminal or a CI system doesn't obey it.

    The value stays the same, since these characters occur only in strings.

    Examples:
        >>> in_json('"##[group]\x9b"')
        '"##\\u005bgroup]\\u009b"'
    """
    escaped = _HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return re.sub(r"(##\w*)\[", r"\1\\u005b", escaped)


def in_xml(text: str) -> str:
    """Make text visible and valid in XML 1.0; escaping of markup is left to the XML writer."""
    return _NOT_XML.sub(REPLACEMENT, visible(text))


def in_annotation(text: str) -> str:
    """Escape the message of a GitHub Actions workflow command, so that it stays on its line."""
    return visible(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
