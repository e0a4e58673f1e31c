"""The tokenizer of a GGUF file, built with the tokenizers library from its metadata."""

from collections.abc import Mapping, Sequence
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from converters.gguf_vocabulary import BYTE_LEVEL_SPLITS, filler
from phi3quant.errors import TokenizerError
from phi3quant.tokenizer import Tokenizer, from_fast

_SPACE = "▁"
_MARKS = (TokenType.CONTROL, TokenType.USER_DEFINED)


def build_tokenizer(fields: Mapping[str, Any], where: str) -> Tokenizer:
    """Rebuild the tokenizer.

    Args:
        fields: the file's metadata.
        where: the file, for messages.

    Raises:
        TokenizerError: it has none, or one of a kind that can't be rebuilt.
    """
    tokens = fields.get("tokenizer.ggml.tokens")
    types = fields.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or not isinstance(types, list) or len(tokens) != len(types):
        raise TokenizerError(f"{where} has no complete tokenizer")
    kind = fields.get("tokenizer.ggml.model")
    builders = {"llama": _sentencepiece, "gpt2": _byte_level}
    if kind not in builders:
        raise TokenizerError(f"{where} has a tokenizer of kind {kind!r}; known are llama and gpt2")
    vocabulary = {
        token: number
        for number, (token, kind_) in enumerate(zip(tokens, types, strict=True))
        # Older files don't mark fillers as unused, but name them in the same way.
        if kind_ != TokenType.UNUSED and token != filler(number)
    }
    try:
        fast = builders[kind](fields, vocabulary, where)
    except TokenizerError:
        raise
    except Exception as error:  # noqa: BLE001 - what the library raises for any bad vocabulary
        raise TokenizerError(f"{where} has a broken tokenizer: {error}") from None
    strips = kind == "llama" and _says_phi3(fields)
    marks = [
        AddedToken(
            token,
            special=types[number] == TokenType.CONTROL,
            normalized=False,
            rstrip=strips and token not in ("<unk>", "<s>", "<|endoftext|>"),
        )
        for token, number in vocabulary.items()
        if types[number] in _MARKS
    ]
    fast.add_tokens(marks)
    template = fields.get("tokenizer.chat_template")
    named = {}
    for role in ("bos", "eos"):
        number = fields.get(f"tokenizer.ggml.{role}_token_id")
        if isinstance(number, int) and 0 <= number < len(tokens):
            named[f"{role}_token"] = str(tokens[number])
    return from_fast(fast, template if isinstance(template, str) else None, named)


def _sentencepiece(
    fields: Mapping[str, Any], vocabulary: Mapping[str, int], _where: str
) -> FastTokenizer:
    """BPE whose merges are every way to split a piece in two, the best scored pieces first."""
    scores: Sequence[float] = fields["tokenizer.ggml.scores"]
    types: Sequence[int] = fields["tokenizer.ggml.token_type"]
    merges: list[tuple[float, tuple[str, str]]] = []
    for piece, number in vocabulary.items():
        if types[number] != TokenType.NORMAL:
            continue
        halves = (
            (piece[:cut], piece[cut:])
            for cut in range(1, len(piece))
            if piece[:cut] in vocabulary and piece[cut:] in vocabulary
        )
        pairs = sorted(halves, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        merges.extend((-scores[number], pair) for pair in pairs)
    merges.sort(key=lambda entry: entry[0])
    unknown = fields.get("tokenizer.ggml.unknown_token_id", 0)
    model = models.BPE(
        dict(vocabulary),
        [pair for _, pair in merges],
        unk_token=fields["tokenizer.ggml.tokens"][unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    fast = FastTokenizer(model)
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", _SPACE)]
    if fields.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend(_SPACE))
    fast.normalizer = normalizers.Sequence(steps)
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return fast


def _byte_level(
    fields: Mapping[str, Any], vocabulary: Mapping[str, int], where: str
) -> FastTokenizer:
    pairs = [merge.split(" ", 1) for merge in fields["tokenizer.ggml.merges"]]
    fast = FastTokenizer(models.BPE(dict(vocabulary), [(left, right) for left, right in pairs]))
    fast.pre_tokenizer = _split(fields.get("tokenizer.ggml.pre"), where)
    fast.decoder = decoders.ByteLevel()
    return fast


def _split(name: Any, where: str) -> pre_tokenizers.PreTokenizer:
    if name in ("gpt-2", "default"):
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        return pre_tokenizers.Sequence([digits, bytes_])
    if name in BYTE_LEVEL_SPLITS:
        split = pre_tokenizers.Split(Regex(BYTE_LEVEL_SPLITS[name]), "isolated")
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, bytes_])
    raise TokenizerError(f"{where} splits text in a way called {name!r}, which is not known here")


def _says_phi3(fields: Mapping[str, Any]) -> bool:
    name = str(fields.get("general.name", "")).lower()
    return "phi-3" in name or "phi3" in name
