"""Subword tokenizers: trained on a stream, loaded from one file, exact about where each piece stands in the text.

The training itself is Hugging Face ``tokenizers``. Its WordPiece trainer learns BPE merges and only
writes them as WordPiece; the name here follows the library.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import regex
from numpy.typing import NDArray

from ctxembed.config import check, check_choices
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.runtime import atomic_path, batched, existing, sha256_text
from ctxembed.text import word_spans

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE_NAME = "tokenizer.json"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_META_SPACES, _BYTE_SPACES = ("▁",), ("Ġ", "Ċ", "ĉ")  # how tokens write space; space, line feed and tab as bytes
_STANDS_ALONE = regex.compile(r"[\p{P}$+<=>^`|~]")  # what BertPreTokenizer makes a word of its own
_TIGHT = regex.compile(r" (?=[.,;:!?%…)\]}’”])|(?<=[(\[{‘“]) ")
_CONTRACTION = regex.compile(r"(?<=\p{L}) ?(['’]) (?=(?:s|t|d|m|ll|re|ve)\b)")
_SURROGATE = regex.compile("[\ud800-\udfff]")
_OTHER_NAMES = {"[PAD]": "<pad>", "[UNK]": "<unk>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}

Offsets = NDArray[np.int32]
TokenIds = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How a tokenizer is trained."""

    kind: Literal["wordpiece", "bpe", "unigram"] = "wordpiece"
    """WordPiece knows the most frequent characters, as many as vocab_size / 16 (100 at least, 1,000 at most), and
    Unigram those of the sample: others are unknown. BPE works on bytes and writes everything."""
    vocab_size: int = 16_000
    """Pieces to learn, special tokens included; fewer when the corpus has no more."""
    lowercase: bool = True
    """Read "Bank" as "bank"."""
    strip_accents: bool = False
    """Read "café" as "cafe"."""
    unicode_form: Literal["nfc", "nfkc", "none"] = "nfc"
    """Unicode normalisation before anything else; nfkc also folds ligatures, full-width forms and the like."""
    min_frequency: int = 2
    """A learned piece must occur so often in the sample; Unigram has no such limit."""

    def __post_init__(self) -> None:
        lowest = 256 + len(SPECIAL_TOKENS) if self.kind == "bpe" else len(SPECIAL_TOKENS) + 1
        check_choices(self)
        advice = f"a {self.kind} tokenizer needs at least {lowest}"
        check(self.vocab_size >= lowest, f"vocab_size = {self.vocab_size}: {advice}")


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token ids of several texts, without special tokens, and where each token stands."""

    ids: list[TokenIds]
    """int32 (T,) for each text."""
    offsets: list[Offsets]
    """int32 (T, 2) for each text: first character and one past the last."""


@dataclass(frozen=True)
class TokenizerReport:
    """How a tokenizer serves a corpus."""

    vocab_size: int
    documents: int
    words: int
    tokens: int
    fertility: float
    """Tokens of a word on average, 1 at best; 0 for a corpus without words."""
    whole_words: float
    """Share of words that are one known token, in [0, 1]."""
    unknown_tokens: float
    """Share of tokens that are unknown, in [0, 1]."""
    vocabulary_used: float
    """Share of the vocabulary that occurs, in [0, 1]."""
    longest_pieces: tuple[str, ...]
    """The twenty longest pieces that occur, longest first."""


class SubwordTokenizer:
    """Text to token ids and back, with exact offsets into the text as it was given."""

    def __init__(self, tokenizer: Tokenizer, *, text: str | None = None) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        # What a file said is kept as it is: the library rounds the scores of Unigram anew each time it writes them.
        self._json = text or str(tokenizer.to_str())
        tokenizer.encode_special_tokens = True  # "[SEP]" in somebody's text is text, not a command to the model
        state = json.loads(self._json)
        before = json.dumps(state["pre_tokenizer"])
        self._markers = _BYTE_SPACES if "ByteLevel" in before else _META_SPACES if "Metaspace" in before else ()
        self._continuing = state["model"].get("continuing_subword_prefix") or ""
        special = [self._special(name) for name in SPECIAL_TOKENS]
        self.pad_id, self.unknown_id, self.cls_id, self.sep_id, self.mask_id = special

    @classmethod
    def train(cls, texts: Iterable[str], *, config: TokenizerConfig) -> SubwordTokenizer:
        """Learn a vocabulary.

        All texts are held in memory, so sample a large corpus first. Equal texts give an equal WordPiece or BPE
        tokenizer; the library sums the scores of Unigram in an order of chance, so their last digits differ.

        Raises:
            InvalidInputError: If the texts hold no word at all, or more characters than the vocabulary has room for.
        """
        texts = _encodable(list(texts))
        if not any(word_spans(text) for text in texts):
            raise InvalidInputError("the corpus holds no word to train on: check the input and its text column")
        train = {"wordpiece": _train_wordpiece, "bpe": _train_bpe, "unigram": _train_unigram}[config.kind]
        return cls(train(texts, config))

    @classmethod
    def load(cls, path: str | Path) -> SubwordTokenizer:
        """Load a ``tokenizer.json``, or the one in a folder.

        Raises:
            MissingInputError: If nothing is there.
            ArtifactError: If the file is no tokenizer.
        """
        from tokenizers import Tokenizer

        path = existing(path)
        file = existing(path / FILE_NAME) if path.is_dir() else path
        try:
            text = file.read_text(encoding="utf-8")
            asks = json.loads(text)
            plain = not (asks.get("padding") or asks.get("truncation"))
            return cls(Tokenizer.from_str(text), text=text if plain else None)
        except Exception as error:  # tokenizers raises bare Exception for any damage
            raise ArtifactError(f"{file} is no tokenizer that can be used ({error}): train it again") from error

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json`` into a folder, atomically."""
        with atomic_path(Path(folder) / FILE_NAME) as temporary:
            temporary.write_text(self._json, encoding="utf-8")

    @property
    def fingerprint(self) -> str:
        """The sha256 over everything that decides which tokens a text has."""
        return sha256_text(self._json)

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode_ids(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the token ids (T,) of each text, without special tokens; an empty text gives none."""
        encodings = self._tokenizer.encode_batch_fast(_encodable(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def encode_batch(self, texts: Sequence[str]) -> TokenBatch:
        """Return ids and character offsets of each text, without special tokens."""
        encodings = self._tokenizer.encode_batch(_encodable(texts), add_special_tokens=False)
        ids = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        offsets = [np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2) for encoding in encodings]
        if self._markers:  # tokens hold the space before them
            offsets = [_trim(text, pairs) for text, pairs in zip(texts, offsets, strict=True)]
        return TokenBatch(ids, offsets)

    def token(self, token_id: int) -> str:
        """Return a token as the vocabulary writes it."""
        return str(self._tokenizer.id_to_token(token_id))

    def vocabulary(self) -> dict[str, int]:
        """Return every token with its id."""
        return dict(self._tokenizer.get_vocab())

    def word_starts(self) -> NDArray[np.bool_]:
        """Tell which vocabulary entries begin a word when they are met in a row of tokens.

        WordPiece marks the pieces that continue a word, and punctuation stands alone. BPE and Unigram mark
        the pieces that follow white space, so that punctuation goes with the word before it.

        Returns:
            bool (V,); special tokens and the unknown token begin a word.
        """
        starts = np.zeros(len(self), dtype=np.bool_)
        for piece, token_id in self.vocabulary().items():
            starts[token_id] = piece.startswith(self._markers) if self._markers else not self._continues(piece)
        starts[list(self._special_ids())] = True
        return starts

    def decode(self, ids: Iterable[int]) -> str:
        """Write tokens as text: words with a space between them, closing punctuation without one before it.

        What the tokenizer folded, such as capitals, stays folded. Special tokens are left out; an unknown token is
        written as the vocabulary writes it.
        """
        from tokenizers import decoders

        left_out = self._special_ids() - {self.unknown_id}
        pieces = [self.token(token_id) for token_id in ids if token_id not in left_out]
        if self._markers == _BYTE_SPACES:
            return str(decoders.ByteLevel().decode(pieces)).strip()
        if self._markers == _META_SPACES:
            return str(decoders.Metaspace().decode(pieces)).strip()
        joined = (piece.removeprefix(self._continuing) if self._continues(piece) else f" {piece}" for piece in pieces)
        text = "".join(joined).strip()
        return _CONTRACTION.sub(r"\1", _TIGHT.sub("", text))

    def report(self, texts: Iterable[str]) -> TokenizerReport:
        """Measure the tokenizer on texts, in one pass."""
        used: Counter[int] = Counter()
        documents = words = whole = word_tokens = 0
        for batch in batched(texts, 1024):
            encoded = self.encode_batch(batch)
            documents += len(batch)
            for text, ids, offsets in zip(batch, encoded.ids, encoded.offsets, strict=True):
                used.update(ids.tolist())
                spans = word_spans(text)
                first, last = token_ranges(offsets, [s.start for s in spans], [s.end for s in spans])
                words += len(spans)
                word_tokens += int((last - first).sum())
                whole += int((ids[first[last - first == 1]] != self.unknown_id).sum())
        tokens = used.total()
        known = (self.token(token_id) for token_id in used if token_id != self.unknown_id)
        pieces = sorted(known, key=lambda piece: (-len(piece), piece))
        return TokenizerReport(
            vocab_size=len(self),
            documents=documents,
            words=words,
            tokens=tokens,
            fertility=word_tokens / words if words else 0.0,
            whole_words=whole / words if words else 0.0,
            unknown_tokens=used[self.unknown_id] / tokens if tokens else 0.0,
            vocabulary_used=len(used) / len(self),
            longest_pieces=tuple(pieces[:20]),
        )

    def _continues(self, piece: str) -> bool:
        return bool(self._continuing) and piece.startswith(self._continuing)

    def _special_ids(self) -> set[int]:
        return {self.pad_id, self.unknown_id, self.cls_id, self.sep_id, self.mask_id}

    def _special(self, name: str) -> int:
        for candidate in (name, _OTHER_NAMES[name]):
            token_id = self._tokenizer.token_to_id(candidate)
            if token_id is not None:
                return int(token_id)
        raise ArtifactError(f"the tokenizer has no {name} token (nor {_OTHER_NAMES[name]}): an encoder needs it")


def token_ranges(
    offsets: Offsets, starts: Sequence[int], ends: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the tokens that overlap stretches of characters.

    Args:
        offsets: int32 (T, 2), ascending.
        starts: First character of each stretch, (N,).
        ends: One past its last character, (N,).

    Returns:
        First token and one past the last, (N,) each; equal where no token overlaps.

    >>> token_ranges(np.array([[0, 3], [4, 6], [6, 9]], dtype=np.int32), [4, 3], [9, 4])
    (array([1, 1]), array([3, 1]))
    """
    first = np.searchsorted(offsets[:, 1], np.asarray(starts), side="right")
    last = np.searchsorted(offsets[:, 0], np.asarray(ends), side="left")
    return first.astype(np.int64), np.maximum(first, last).astype(np.int64)


def _normalizer(config: TokenizerConfig) -> Any:
    from tokenizers import normalizers

    steps: list[Any] = []
    if config.unicode_form != "none":
        steps.append(normalizers.NFC() if config.unicode_form == "nfc" else normalizers.NFKC())
    if config.lowercase:
        steps.append(normalizers.Lowercase())
    if config.strip_accents:
        steps += [normalizers.NFD(), normalizers.StripAccents()]
    return normalizers.Sequence(steps)


def _train_wordpiece(texts: list[str], config: TokenizerConfig) -> Tokenizer:
    """Train WordPiece on a fixed alphabet: each character and, where it may go on a word, its ## form."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    normalizer = _normalizer(config)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    most = max(100, min(1000, config.vocab_size // 16))
    frequent = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))[:most]
    pieces = [*SPECIAL_TOKENS, *frequent, *(f"##{c}" for c in frequent if not _STANDS_ALONE.match(c))]
    if len(pieces) > config.vocab_size:
        raise _too_many_characters(config, f"{len(frequent)} of them need {len(pieces)} pieces")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=64))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # Left to itself the trainer numbers the ## characters in the order of a hash map, and equal counts are decided by
    # number: every run would learn another vocabulary. As special tokens they have their numbers beforehand.
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=pieces,
        initial_alphabet=frequent,
        limit_alphabet=len(frequent),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = state["added_tokens"][: len(SPECIAL_TOKENS)]
    return Tokenizer.from_str(json.dumps(state))


def _train_bpe(texts: list[str], config: TokenizerConfig) -> Tokenizer:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = _normalizer(config)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer


def _train_unigram(texts: list[str], config: TokenizerConfig) -> Tokenizer:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = _normalizer(config)
    # Metaspace alone knows only the space: a line break or tab would stay inside a piece.
    steps = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    trainer = trainers.UnigramTrainer(
        vocab_size=config.vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        unk_token="[UNK]",
        show_progress=False,
    )
    try:
        tokenizer.train_from_iterator(texts, trainer=trainer)
    except Exception as error:  # tokenizers raises bare Exception
        raise _too_many_characters(config, str(error)) from error
    return tokenizer


def _too_many_characters(config: TokenizerConfig, reason: str) -> InvalidInputError:
    return InvalidInputError(
        f"vocab_size = {config.vocab_size} has no room for the characters of the corpus ({reason}): raise it"
    )


def _encodable(texts: Sequence[str]) -> list[str]:
    """Replace surrogates, which no UTF-8 library accepts, one for one, so that offsets stay."""
    return [text if text.isascii() else _SURROGATE.sub("\ufffd", text) for text in texts]


def _trim(text: str, offsets: Offsets) -> Offsets:
    """Move starts past white space, which byte-level and meta-space tokens include."""
    for row in range(len(offsets)):
        start, end = offsets[row]
        while start < end and text[start].isspace():
            start += 1
        offsets[row, 0] = start
    return offsets
