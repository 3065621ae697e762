"""One vector for each word form, whatever its context: the baseline that context must beat.

Word2Vec (Mikolov et al. 2013, arXiv:1310.4546) as gensim trains it, kept as a folder of plain parts, and offered
under the same Protocols as an encoder in context. Words are those of ``text.py``; vectors are kept as trained and
normalised only when they are used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import itertools
import logging
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.corpus import require_restartable
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.runtime import atomic_directory, environment, existing, sha256_file, sha256_text, write_json
from ctxembed.text import sentence_spans, word_form, word_forms
from ctxembed.types import Document, Usage, Vectors
from ctxembed.vectors import MANIFEST, read_manifest

FORMAT = "ctxembed-static"
VERSION = 1
POOLING = "mean of the known word forms, L2-normalised"

Algorithm: TypeAlias = Literal["skip-gram", "cbow"]
StoredType: TypeAlias = Literal["float16", "float32"]

_VECTORS, _WORDS, _COUNTS = _PARTS = ("vectors.npy", "words.txt", "counts.npy")
_AGAIN = "copy the folder again, or train anew"
_MAX_COUNTED_FORMS = 10_000_000  # about 1.5 GB; beyond it the rarest are forgotten, and the record says how many
_DOCUMENTS_BETWEEN_REPORTS = 1000
_BLOCK_ROWS = 16_384
_SPELLINGS_COMPARED = 20_000


@dataclass(frozen=True, kw_only=True)
class StaticConfig:
    """How static vectors are trained."""

    dimension: int = 100
    """Width D of every vector."""
    window: int = 5
    """Most words between a word and a neighbour it is trained with, on either side and inside one sentence."""
    min_count: int = 5
    """A word form must occur so often to get a vector."""
    epochs: int = 5
    """Passes over the corpus."""
    algorithm: Algorithm = "skip-gram"
    """A word predicts each neighbour (better for rare words), or the mean of its neighbours predicts it (faster)."""
    negative: int = 10
    """Random words that each true neighbour is told apart from."""
    sample: float = 1e-4
    """Words that make up more of the corpus than this are passed over now and then; 0 keeps all (small corpora)."""
    max_vocabulary: int | None = None
    """Most word forms to keep, the most frequent first; None keeps all that reach min_count."""
    seed: int = 1
    """Decides initial vectors, windows and random words."""
    workers: int = 1
    """Training threads; only with one are two runs equal, as several write to the same vectors unsynchronised."""

    def __post_init__(self) -> None:
        for name in ("dimension", "window", "min_count", "epochs", "negative", "workers"):
            check(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}: must be at least 1")
        known = get_args(Algorithm)
        check(self.algorithm in known, f"algorithm = {self.algorithm!r}: must be one of {', '.join(known)}")
        check(0.0 <= self.sample < 1.0, f"sample = {self.sample}: must be in [0, 1), 0 keeps every word")
        limit = self.max_vocabulary
        check(limit is None or limit >= 1, f"max_vocabulary = {limit}: must be at least 1, or None for no limit")
        check(0 <= self.seed < 2**32, f"seed = {self.seed}: must be in [0, {2**32 - 1}]")


@dataclass(frozen=True, slots=True)
class StaticProgress:
    """How far training is: what has been read, and the epochs that are done (0 while reading)."""

    documents: int
    tokens: int
    epoch: int
    num_epochs: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many of some word forms have a vector, every occurrence counted."""

    known: int
    unknown: int


class StaticVectors:
    """One vector for each word form; a TextEncoder and a UsageEncoder.

    Attributes:
        words: The V word forms, most frequent first.
        vectors: float16 or float32 (V, D) as trained, not normalised; read-only.
        counts: int64 (V,), occurrences of each form in the training corpus.
        training: Settings, corpus counts and library versions of the training run; empty where unknown.
    """

    def __init__(
        self,
        words: Sequence[str],
        vectors: NDArray[Any],
        counts: NDArray[Any],
        *,
        name: str = "static",
        training: Mapping[str, Any] | None = None,
    ) -> None:
        """Join words and vectors.

        Args:
            words: V distinct lookup forms (``text.word_form``), most frequent first; at least one.
            vectors: float16 or float32 (V, D), finite.
            counts: Integers (V,), none above the one before.
            name: For tables and messages.
            training: What is known of the training run.

        Raises:
            InvalidInputError: If they do not fit together.
        """
        self.words = tuple(words)
        self._rows = {word: row for row, word in enumerate(self.words)}
        self.vectors = np.asarray(vectors).view()
        self.vectors.flags.writeable = False  # a change would leave the fingerprint behind
        self.counts = np.asarray(counts)
        self.training = dict(training or {})
        self._name = name
        self._check()

    def _check(self) -> None:
        shape, num_words = self.vectors.shape, len(self.words)
        check(
            len(shape) == 2 and 0 not in shape and (shape[0],) == (num_words,) == self.counts.shape,
            f"{num_words} words, vectors of shape {shape} and counts of shape {self.counts.shape}: "
            "need one vector (V, D) and one count (V,) for each word, and at least one word",
        )
        kind = self.vectors.dtype
        check(kind in (np.float16, np.float32), f"the vectors are {kind}, need float32 or float16: use .astype")
        # The extremes show any NaN or infinity, and need no mask as large as the vectors.
        finite = math.isfinite(self.vectors.min()) and math.isfinite(self.vectors.max())
        check(finite, "the vectors hold NaN or infinity: train again, or leave those words out")
        unfit = [word for word in self.words if not word or "\n" in word]
        check(not unfit, f"{len(unfit)} words are empty or hold a line break, as {unfit[:1]}: leave them out")
        word, times = Counter(self.words).most_common(1)[0]
        check(times == 1, f"the word {word!r} stands {times} times, need each once: leave out the repetition")
        falling = np.issubdtype(self.counts.dtype, np.integer) and bool((np.diff(self.counts) <= 0).all())
        check(falling, "the counts are no integers that fall or stay: sort the words, most frequent first")

    @property
    def name(self) -> str:
        """The name given, or that of the folder it was loaded from."""
        return self._name

    @property
    def dimension(self) -> int:
        """The width D of every vector."""
        return int(self.vectors.shape[1])

    @functools.cached_property
    def fingerprint(self) -> str:
        """A sha256 over the words, the vectors as they are stored, and the pooling rule."""
        digest = hashlib.sha256()
        for start in range(0, len(self), _BLOCK_ROWS):
            digest.update(np.ascontiguousarray(self.vectors[start : start + _BLOCK_ROWS]).data)
        stored = f"{self.vectors.dtype} {self.vectors.shape} {digest.hexdigest()}"
        return sha256_text(FORMAT, POOLING, stored, "\n".join(self.words))

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and word_form(word) in self._rows

    def encode(self, texts: Sequence[str], *, prompt: str | None = None) -> Vectors:
        """Average the vectors of the known words of each text.

        Args:
            texts: N texts; none gives shape (0, D).
            prompt: Its known words count as if they stood before every text.

        Returns:
            float32 (N, D), L2-normalised; a text without a known word is a zero row, whatever the prompt.

        Raises:
            InvalidInputError: If one string is given in place of a list.
        """
        if isinstance(texts, str):
            raise InvalidInputError(f"texts is the string {texts[:40]!r}, need several: pass a list of texts")
        before = self._known(word_forms(prompt or ""))
        result = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            if known := self._known(word_forms(text)):
                result[row] = self._mean(before + known)
        return result

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        """Look up the word of each usage; its context changes nothing.

        Args:
            usages: N words in context; none gives shape (0, D). Several words ("ice cream") are averaged.
            layer: None or 0.

        Returns:
            float32 (N, D), L2-normalised; an unknown word is a zero row.

        Raises:
            InvalidInputError: For another layer, or a span that marks nothing in its text.
        """
        check(layer in (None, 0), f"layer = {layer}: static vectors have no layers, leave it out")
        result = np.zeros((len(usages), self.dimension), np.float32)
        for row, usage in enumerate(usages):
            if not 0 <= usage.start < usage.end <= len(usage.text):
                raise InvalidInputError(
                    f"usage {row} marks characters {usage.start} to {usage.end} of a text of {len(usage.text)}: "
                    "mark a word inside the text"
                )
            if known := self._known([word_form(usage.word)]) or self._known(word_forms(usage.word)):
                result[row] = self._mean(known)
        return result

    def vector(self, word: str) -> Vectors:
        """Return the vector of one word as it was trained, not normalised: float32 (D,).

        Raises:
            InvalidInputError: If the word is unknown, with the nearest spellings.
        """
        vector: Vectors = self.vectors[self._row(word)].astype(np.float32)
        return vector

    def nearest(self, word: str, *, k: int = 10) -> list[tuple[str, float]]:
        """Return the k words nearest to a word, each with its cosine in [-1, 1]; all others where V <= k.

        Raises:
            InvalidInputError: If the word is unknown, or k is below 1.
        """
        check(k >= 1, f"k = {k}: must be at least 1")
        row = self._row(word)
        query = _unit(self.vectors[row])
        starts = range(0, len(self), _BLOCK_ROWS)
        cosines = np.concatenate([_unit(self.vectors[start : start + _BLOCK_ROWS]) @ query for start in starts])
        order = np.argsort(-cosines, kind="stable")  # among equals the more frequent word comes first
        return [(self.words[i], float(np.clip(cosines[i], -1.0, 1.0))) for i in order[order != row][:k]]

    def coverage(self, words: Iterable[str]) -> Coverage:
        """Count the words that have a vector and those that have none, so that callers can report it."""
        found = Counter(word in self for word in words)
        return Coverage(known=found[True], unknown=found[False])

    def save(self, path: str | Path, *, dtype: StoredType = "float16") -> None:
        """Write the folder, in place of an older one of its kind.

        Args:
            path: Where to.
            dtype: float16 takes half the space of float32 and rounds each value to 11 bits, so the fingerprint changes.

        Raises:
            InvalidInputError: If something else stands there, or a word or value does not fit the format.
        """
        path = Path(path)
        _check_replaceable(path)
        check(dtype in get_args(StoredType), f"dtype = {dtype!r}: must be one of {', '.join(get_args(StoredType))}")
        largest, limit = max(abs(float(self.vectors.min())), abs(float(self.vectors.max()))), float(np.finfo(dtype).max)
        check(largest <= limit, f"a vector holds the value {largest:g}, {dtype} ends at {limit:g}: save as float32")
        with atomic_directory(path) as folder:
            np.save(folder / _VECTORS, self.vectors.astype(dtype))
            np.save(folder / _COUNTS, self.counts.astype(np.int64))
            (folder / _WORDS).write_bytes("".join(f"{word}\n" for word in self.words).encode("utf-8"))
            manifest = {
                "format": FORMAT,
                "version": VERSION,
                "name": path.resolve().name,
                "dimension": self.dimension,
                "words": len(self),
                "dtype": dtype,
                "sha256": {part: sha256_file(folder / part) for part in _PARTS},
                "training": self.training,
            }
            write_json(folder / MANIFEST, manifest)

    @classmethod
    def load(cls, path: str | Path, *, name: str | None = None) -> StaticVectors:
        """Open a folder; the vectors stay on disk and are read as they are used.

        Args:
            path: What ``save`` wrote.
            name: For tables and messages; the folder's name where it is not given.

        Raises:
            MissingInputError: If there is no such folder, or no manifest in it.
            ArtifactError: If a part is missing, damaged or of another format.
        """
        folder = existing(path)
        record = read_manifest(folder / MANIFEST, expected=FORMAT, version=VERSION)
        try:
            _check_parts(folder, record)
            vectors = _read_array(folder / _VECTORS, (record["words"], record["dimension"]), record["dtype"])
            counts = _read_array(folder / _COUNTS, (record["words"],), "int64")
            words = (folder / _WORDS).read_bytes().decode("utf-8").removesuffix("\n").split("\n")
            return cls(words, vectors, counts, name=name or folder.resolve().name, training=record["training"])
        except (KeyError, TypeError, UnicodeDecodeError, InvalidInputError) as error:
            raise ArtifactError(f"{folder} does not fit its {MANIFEST} ({error!r}): {_AGAIN}") from error

    def _known(self, forms: Iterable[str]) -> list[int]:
        return [self._rows[form] for form in forms if form in self._rows]

    def _mean(self, rows: list[int]) -> NDArray[np.float64]:
        """Return the direction of the mean (D,), which is that of the sum; it does not depend on the order."""
        distinct, times = np.unique(rows, return_counts=True)
        return _unit(times @ self.vectors[distinct].astype(np.float64))

    def _row(self, word: str) -> int:
        form = word_form(word)
        if form in self._rows:
            return self._rows[form]
        frequent = [known for known in self.words[:_SPELLINGS_COMPARED] if abs(len(known) - len(form)) <= 2]
        near = difflib.get_close_matches(form, frequent)
        advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "train on more text, or lower min_count"
        raise InvalidInputError(f"the word {word!r} is none of the {len(self)} that have a vector: {advice}")


def train_static(
    documents: Iterable[Document],
    *,
    config: StaticConfig,
    on_progress: Callable[[StaticProgress], None] | None = None,
) -> StaticVectors:
    """Train Word2Vec on the words of a corpus, sentence by sentence.

    The words are written once into a temporary file (of the corpus's size; the variable TMPDIR moves it), which
    every epoch reads again. Memory holds the vectors twice and the word forms with their counts, never the text.

    Args:
        documents: A restartable stream.
        config: The settings.
        on_progress: Called now and then while reading, and after each epoch.

    Raises:
        InvalidInputError: If the documents are a one-shot iterator, or hold nothing to learn from.
    """
    require_restartable(documents)

    def report(tally: _Tally, epoch: int) -> None:
        if on_progress is not None:
            on_progress(StaticProgress(tally.documents, tally.tokens, epoch, config.epochs))

    with tempfile.TemporaryDirectory(prefix="ctxembed-static-") as folder:
        file = Path(folder) / "sentences.txt"
        tally = _write_sentences(documents, file, lambda tally: report(tally, 0))
        vocabulary = _vocabulary(tally, config)
        vectors, trained = _word2vec(file, vocabulary, tally, config, lambda epoch: report(tally, epoch))
    check(trained > 0, f"sample = {config.sample} passed over all {tally.tokens} words: set it to 0 for a small corpus")
    versions = environment()["versions"]
    training = dataclasses.asdict(config) | {
        "documents": tally.documents,
        "sentences": tally.sentences,
        "tokens": tally.tokens,
        "forgotten_forms": tally.forgotten_forms,
        "trained_tokens": trained,
        "versions": {library: versions[library] for library in ("ctxembed", "python", "numpy", "gensim")},
    }
    return StaticVectors(list(vocabulary), vectors, np.fromiter(vocabulary.values(), np.int64), training=training)


@dataclass
class _Tally:
    """What has been read of a corpus so far."""

    documents: int = 0
    sentences: int = 0
    tokens: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    forgotten_forms: int = 0
    forgotten_below: int = 1

    def bound_memory(self) -> None:
        """Forget the rarest forms while there are too many; a form that comes back later counts from 1."""
        while len(self.counts) > _MAX_COUNTED_FORMS:
            before = len(self.counts)
            self.forgotten_below += 1
            self.counts = Counter({form: n for form, n in self.counts.items() if n >= self.forgotten_below})
            self.forgotten_forms += before - len(self.counts)


def _write_sentences(documents: Iterable[Document], file: Path, report: Callable[[_Tally], None]) -> _Tally:
    """Write the word forms of each sentence as one line, joined by spaces, which no word form contains."""
    tally = _Tally()
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        for document in documents:
            for sentence in sentence_spans(document.text):
                if forms := word_forms(sentence.text):
                    stream.write(" ".join(forms) + "\n")
                    tally.counts.update(forms)
                    tally.sentences += 1
                    tally.tokens += len(forms)
            tally.documents += 1
            tally.bound_memory()
            if tally.documents % _DOCUMENTS_BETWEEN_REPORTS == 0:
                report(tally)
    report(tally)
    return tally


def _vocabulary(tally: _Tally, config: StaticConfig) -> dict[str, int]:
    """Return the forms to train with their counts, most frequent first, equal ones in code point order."""
    check(tally.tokens > 0, f"the {tally.documents} documents hold no word: check the input and its text column")
    single = f"each of the {tally.sentences} sentences is a single word"
    check(tally.tokens > tally.sentences, f"{single}, and words are learnt from their neighbours: give running text")
    ranked = sorted(tally.counts.items(), key=lambda item: (-item[1], item[0]))
    most = max(tally.counts.values(), default=0)
    check(most >= config.min_count, f"no word occurs min_count = {config.min_count} times (at most {most}): lower it")
    return {form: count for form, count in ranked[: config.max_vocabulary] if count >= config.min_count}


def _word2vec(
    file: Path, vocabulary: Mapping[str, int], tally: _Tally, config: StaticConfig, on_epoch: Callable[[int], None]
) -> tuple[Vectors, int]:
    """Train on a file of sentences; return float32 (V, D) in the order of the vocabulary, and the words trained on."""
    from gensim.models.callbacks import CallbackAny2Vec
    from gensim.models.word2vec import LineSentence, Word2Vec

    class EpochEnd(CallbackAny2Vec):  # type: ignore[misc]
        def on_epoch_end(self, model: Any) -> None:
            on_epoch(next(epochs))

    epochs = itertools.count(1)
    with _gensim_quiet():
        model = Word2Vec(
            vector_size=config.dimension,
            window=config.window,
            min_count=1,
            sg=int(config.algorithm == "skip-gram"),
            negative=config.negative,
            sample=config.sample,
            seed=config.seed,
            workers=config.workers,
            sorted_vocab=0,  # already sorted; gensim's own sort leaves the order of equal counts open
        )
        model.build_vocab_from_freq(vocabulary, corpus_count=tally.sentences)
        # Lines, not gensim's corpus_file: there the learning rate falls too little with several workers.
        trained, _ = model.train(
            LineSentence(str(file)), total_words=tally.tokens, epochs=config.epochs, callbacks=[EpochEnd()]
        )
    return model.wv.vectors, trained


@contextlib.contextmanager
def _gensim_quiet() -> Iterator[None]:
    """Hold back gensim's log; its warnings are about batch sizes and learning rates that are set here."""
    logger = logging.getLogger("gensim")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Scale vectors (..., D) to length 1; a zero vector stays zero."""
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)
    return unit


def _check_parts(folder: Path, record: Mapping[str, Any]) -> None:
    """Compare every part with the hash that the manifest has of it."""
    for part in _PARTS:
        if not (folder / part).is_file():
            raise ArtifactError(f"{folder / part} is missing: {_AGAIN}")
        if sha256_file(folder / part) != record["sha256"][part]:
            raise ArtifactError(f"{folder / part} is damaged (its sha256 differs): {_AGAIN}")


def _read_array(file: Path, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"{file} is damaged ({error}): {_AGAIN}") from error
    if array.shape != shape or array.dtype.name != dtype:
        raise ArtifactError(f"{file} is {array.dtype} {array.shape}, the manifest says {dtype} {shape}: {_AGAIN}")
    return array


def _check_replaceable(path: Path) -> None:
    """Refuse to put the folder where anything else stands: what stands there would be deleted."""
    check(path.is_dir() or not path.exists(), f"{path} is a file, need a folder: choose another place")
    ours = {*_PARTS, MANIFEST}
    others = sorted(entry.name for entry in path.iterdir() if entry.name not in ours) if path.is_dir() else []
    check(not others, f"{path} holds {', '.join(others[:3])} and is no folder of static vectors: choose another place")
