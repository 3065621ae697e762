"""Training one vector for each word form: Word2Vec (Mikolov et al. 2013, arXiv:1310.4546) as gensim trains it.

With subwords it is FastText (Bojanowski et al. 2017): the vector of a word is the mean of its own and of its n-grams.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from ctxembed.config import check
from ctxembed.corpus import require_restartable
from ctxembed.runtime import environment
from ctxembed.static import StaticVectors
from ctxembed.subwords import Subwords
from ctxembed.text import sentence_spans, word_forms
from ctxembed.types import Document, Vectors

Algorithm: TypeAlias = Literal["skip-gram", "cbow"]

_MAX_COUNTED_FORMS = 10_000_000  # about 1.5 GB; beyond it the rarest are forgotten, and the record says how many
_DOCUMENTS_BETWEEN_REPORTS = 1000
_SUBWORD_SETTINGS = ("subwords", "min_n", "max_n", "buckets")


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
    subwords: bool = False
    """Learn vectors of character n-grams too, from which words that never occurred can get one."""
    min_n: int = 3
    """Shortest n-gram, in characters, word borders included."""
    max_n: int = 6
    """Longest n-gram."""
    buckets: int = 100_000
    """N-grams are hashed into so many vectors."""
    workers: int = 1
    """Training threads; only with one are two runs equal, as several write to the same vectors unsynchronised."""

    def __post_init__(self) -> None:
        for name in ("dimension", "window", "min_count", "epochs", "negative", "workers", "min_n", "buckets"):
            check(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}: must be at least 1")
        known = get_args(Algorithm)
        check(self.algorithm in known, f"algorithm = {self.algorithm!r}: must be one of {', '.join(known)}")
        check(0.0 <= self.sample < 1.0, f"sample = {self.sample}: must be in [0, 1), 0 keeps every word")
        check(self.min_n <= self.max_n, f"min_n = {self.min_n} is above max_n = {self.max_n}: n-grams need a length")
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


def train_static(
    documents: Iterable[Document],
    *,
    config: StaticConfig,
    start: StaticVectors | None = None,
    on_progress: Callable[[StaticProgress], None] | None = None,
) -> StaticVectors:
    """Train Word2Vec on the words of a corpus, sentence by sentence.

    The words are written once into a temporary file (of the corpus's size; the variable TMPDIR moves it), which
    every epoch reads again. Memory holds the vectors twice and the word forms with their counts, never the text.

    Args:
        documents: A restartable stream.
        config: The settings.
        start: Where the words that it has begin; the others begin at random.
        on_progress: Called now and then while reading, and after each epoch.

    Raises:
        InvalidInputError: If the documents are a one-shot iterator, or hold nothing to learn from, or the start is of
            another width.
    """
    require_restartable(documents)
    if start is not None:
        width = start.dimension
        check(width == config.dimension, f"{start.name} has width {width}, dimension = {config.dimension}: need one")
        check(not config.subwords, "training with subwords begins at random: leave the start out")

    def report(tally: Tally, epoch: int) -> None:
        if on_progress is not None:
            on_progress(StaticProgress(tally.documents, tally.tokens, epoch, config.epochs))

    with tempfile.TemporaryDirectory(prefix="ctxembed-static-") as folder:
        file = Path(folder) / "sentences.txt"
        with file.open("w", encoding="utf-8", newline="\n") as stream:
            tally = count_words(documents, write=stream.write, on_progress=lambda tally: report(tally, 0))
        vocabulary = vocabulary_of(tally, min_count=config.min_count, most=config.max_vocabulary)
        found = _word2vec(file, vocabulary, tally, config, start, lambda epoch: report(tally, epoch))
    vectors, subwords, trained = found
    check(trained > 0, f"sample = {config.sample} passed over all {tally.tokens} words: set it to 0 for a small corpus")
    versions = environment()["versions"]
    settings = dataclasses.asdict(config)
    if not config.subwords:
        settings = {name: value for name, value in settings.items() if name not in _SUBWORD_SETTINGS}
    if start is not None:
        settings["start"] = start.fingerprint
    training = settings | {
        "documents": tally.documents,
        "sentences": tally.sentences,
        "tokens": tally.tokens,
        "forgotten_forms": tally.forgotten_forms,
        "trained_tokens": trained,
        "versions": {library: versions[library] for library in ("ctxembed", "python", "numpy", "gensim")},
    }
    counts = np.fromiter(vocabulary.values(), np.int64)
    return StaticVectors(list(vocabulary), vectors, counts, training=training, subwords=subwords)


@dataclass
class Tally:
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


def count_words(
    documents: Iterable[Document],
    *,
    write: Callable[[str], object] | None = None,
    on_progress: Callable[[Tally], None] | None = None,
) -> Tally:
    """Count the word forms of a corpus.

    Args:
        documents: Read once.
        write: Called with the word forms of each sentence as one line, joined by spaces, which no word form contains.
        on_progress: Called now and then.
    """
    tally = Tally()
    for document in documents:
        for sentence in sentence_spans(document.text):
            if forms := word_forms(sentence.text):
                if write is not None:
                    write(" ".join(forms) + "\n")
                tally.counts.update(forms)
                tally.sentences += 1
                tally.tokens += len(forms)
        tally.documents += 1
        tally.bound_memory()
        if on_progress is not None and tally.documents % _DOCUMENTS_BETWEEN_REPORTS == 0:
            on_progress(tally)
    if on_progress is not None:
        on_progress(tally)
    return tally


def vocabulary_of(tally: Tally, *, min_count: int, most: int | None) -> dict[str, int]:
    """Return the forms to train with their counts, most frequent first, equal ones in code point order.

    Raises:
        InvalidInputError: If there is no word to learn, or nothing to learn it from.
    """
    check(tally.tokens > 0, f"the {tally.documents} documents hold no word: check the input and its text column")
    single = f"each of the {tally.sentences} sentences is a single word"
    check(tally.tokens > tally.sentences, f"{single}, and words are learnt from their neighbours: give running text")
    ranked = sorted(tally.counts.items(), key=lambda item: (-item[1], item[0]))
    largest = max(tally.counts.values(), default=0)
    check(largest >= min_count, f"no word occurs min_count = {min_count} times (at most {largest}): lower it")
    return {form: count for form, count in ranked[:most] if count >= min_count}


def _word2vec(
    file: Path,
    vocabulary: Mapping[str, int],
    tally: Tally,
    config: StaticConfig,
    start: StaticVectors | None,
    on_epoch: Callable[[int], None],
) -> tuple[Vectors, Subwords | None, int]:
    """Train on a file of sentences.

    Returns:
        float32 (V, D) in the order of the vocabulary, the n-grams if there are any, and the words trained on.
    """
    from gensim.models import FastText, Word2Vec
    from gensim.models.callbacks import CallbackAny2Vec
    from gensim.models.word2vec import LineSentence

    class EpochEnd(CallbackAny2Vec):  # type: ignore[misc]
        def on_epoch_end(self, model: Any) -> None:
            on_epoch(next(epochs))

    epochs = itertools.count(1)
    grams = {"min_n": config.min_n, "max_n": config.max_n, "bucket": config.buckets} if config.subwords else {}
    with _gensim_quiet():
        model = (FastText if config.subwords else Word2Vec)(
            vector_size=config.dimension,
            window=config.window,
            min_count=1,
            sg=int(config.algorithm == "skip-gram"),
            negative=config.negative,
            sample=config.sample,
            seed=config.seed,
            workers=config.workers,
            sorted_vocab=0,  # already sorted; gensim's own sort leaves the order of equal counts open
            **grams,
        )
        model.build_vocab_from_freq(vocabulary, corpus_count=tally.sentences)
        if start is not None:
            known = [row for row, word in enumerate(vocabulary) if word in start]
            check(bool(known), f"{start.name} has none of the {len(vocabulary)} words: begin without it")
            model.wv.vectors[known] = [start.vector(word) for word in vocabulary if word in start]
        # Lines, not gensim's corpus_file: there the learning rate falls too little with several workers.
        trained, _ = model.train(
            LineSentence(str(file)), total_words=tally.tokens, epochs=config.epochs, callbacks=[EpochEnd()]
        )
    subwords = Subwords(model.wv.vectors_ngrams, config.min_n, config.max_n) if config.subwords else None
    return model.wv.vectors, subwords, trained


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
