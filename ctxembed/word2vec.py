"""Training one vector for each word form: Word2Vec (Mikolov et al. 2013, arXiv:1310.4546) as gensim trains it."""

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
from ctxembed.text import sentence_spans, word_forms
from ctxembed.types import Document, Vectors

Algorithm: TypeAlias = Literal["skip-gram", "cbow"]

_MAX_COUNTED_FORMS = 10_000_000  # about 1.5 GB; beyond it the rarest are forgotten, and the record says how many
_DOCUMENTS_BETWEEN_REPORTS = 1000


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
