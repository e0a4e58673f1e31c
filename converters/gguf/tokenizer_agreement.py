"""Agreement between a GGUF vocabulary in llama.cpp and the source's tokenizer.

llama.cpp has no equivalent of some settings of tokenizer.json, such as spaces that only some tokens
absorb. So texts are encoded both ways before a file is written. Plain text and chats by the model's
template must give the same tokens; differences around other added tokens are reported, and so are
words that llama.cpp is known to split differently.
"""

from collections.abc import Sequence
from dataclasses import replace

from gguf import TokenType

from converters.gguf.splits import SPLITS
from converters.gguf.tokenizer import build_tokenizer
from converters.gguf.vocabulary import GgufVocabulary
from phi3quant.errors import TokenizerError
from phi3quant.notices import notify
from phi3quant.source.tokenizer import TRIAL_CHATS, Tokenizer

PLAIN = (
    "Hello, world! It's 1234567 o'clock; I'LL see  you.",
    "  def area(x):\n\tif x >= 10**3:\n        return x*x  # naïve\n\n\n",
    " leading, trailing ",
    "Zürich, Łódź, Ελλάδα, Москва, ﬁne ①, e\u0301 and é",
    "東京と北京。서울 ภาษาไทย हिन्दी עברית العربية",
    "🙂🙂🏽👩‍👩‍👧 \u200b\u00a0\ufeff end",
    '{"a": [1, 2.5e-3, null], "b": "<tag/>"}\r\n|---|---|\n',
    "x" * 40 + " " * 20 + "\n" * 5 + "UPPERCASE camelCase snake_case",
)
"""Trial texts: code, digits, spaces and several scripts."""

_AROUND = ("{}", "a{}b", "a {} b", "a\n{}\nb", "{}{}", " {}")
_MAX_MARKS = 500
# Added tokens that a note lists by name; the rest are counted.
_SHOWN = 8


def agreeing(vocabulary: GgufVocabulary, source: Tokenizer, where: str) -> GgufVocabulary:
    """Choose the variant of a vocabulary that agrees with the source's tokenizer on most texts.

    Args:
        vocabulary: vocabulary to be written.
        source: tokenizer of the model.
        where: folder of the model, for messages.

    Returns:
        The vocabulary, or a copy with the opposite treatment of spaces after special tokens.

    Raises:
        TokenizerError: llama.cpp would encode plain text or chats differently.
    """
    texts = [*PLAIN, *_chats(source)]
    marks = [
        token
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    ][:_MAX_MARKS]
    differing = _differing(vocabulary, source, texts, marks)
    if any(differing) and vocabulary.can_strip:
        other = replace(vocabulary, strips_right=not vocabulary.strips_right)
        others = _differing(other, source, texts, marks)
        if tuple(map(len, others)) < tuple(map(len, differing)):
            vocabulary, differing = other, others
    wrong, around = differing
    if wrong and not _only_splits_differ(vocabulary, source, wrong):
        raise TokenizerError(
            f"{where}: llama.cpp would encode some text differently from this tokenizer, such as "
            f"{wrong[0][:60]!r}; export another format than GGUF"
        )
    if wrong:
        note = (
            f"{where}: llama.cpp encodes {SPLITS[vocabulary.pre].limit} differently from the "
            "source's tokenizer"
        )
        notify([note])
    if around:
        more = f" and {len(around) - _SHOWN} more" if len(around) > _SHOWN else ""
        note = (
            f"{where}: llama.cpp encodes text next to these added tokens differently from the "
            f"source's tokenizer: {', '.join(around[:_SHOWN])}{more}"
        )
        notify([note])
    return vocabulary


def _differing(
    vocabulary: GgufVocabulary, source: Tokenizer, texts: Sequence[str], marks: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Texts that are encoded differently, and added tokens with such a difference around them."""
    rebuilt = build_tokenizer(vocabulary.fields(), "the GGUF vocabulary")

    def differs(text: str) -> bool:
        return rebuilt.encode(text) != source.encode(text)

    return (
        [text for text in texts if differs(text)],
        [
            mark
            for mark in marks
            if any(differs(pattern.replace("{}", mark)) for pattern in _AROUND)
        ],
    )


def _only_splits_differ(
    vocabulary: GgufVocabulary, source: Tokenizer, texts: Sequence[str]
) -> bool:
    """Whether texts are encoded alike once they are split as in tokenizer.json.

    These differences are llama.cpp's own, and every GGUF file of the model has them.
    """
    rebuilt = build_tokenizer(vocabulary.fields(), "the GGUF vocabulary", as_intended=True)
    return all(rebuilt.encode(text) == source.encode(text) for text in texts)


def _chats(tokenizer: Tokenizer) -> list[str]:
    """Trial chats by the model's template, without those that it refuses."""
    rendered = []
    for chat in TRIAL_CHATS:
        try:
            rendered.append(tokenizer.render_chat(chat, add_generation_prompt=True))
        except TokenizerError:
            continue
    return rendered
