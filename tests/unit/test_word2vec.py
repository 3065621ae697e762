from __future__ import annotations

import logging
import random
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctxembed.word2vec
from ctxembed.errors import InvalidInputError
from ctxembed.static import StaticVectors
from ctxembed.text import word_forms
from ctxembed.types import Document
from ctxembed.word2vec import StaticConfig, StaticProgress, train_static

ANIMALS = ("cat", "dog", "fox")
CITIES = ("paris", "rome", "oslo")
# sample=0: in a corpus of twenty words each one is "frequent", and sub-sampling would drop nearly all.
CONFIG = StaticConfig(dimension=16, window=3, min_count=2, epochs=8, sample=0)


def corpus(size: int = 150) -> list[Document]:
    draw = random.Random(3)
    sentences = "Every {} eats raw meat and sleeps outside. They flew by plane to {} for a holiday."
    texts = [sentences.format(draw.choice(ANIMALS), draw.choice(CITIES)) for _ in range(size)]
    return [Document(str(number), text) for number, text in enumerate(texts)]


@pytest.fixture(scope="module")
def trained() -> StaticVectors:
    return train_static(corpus(), config=CONFIG)


def cosine(vectors: StaticVectors, one: str, other: str) -> float:
    a, b = vectors.vector(one), vectors.vector(other)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# Training


@pytest.mark.parametrize("algorithm", ["skip-gram", "cbow"])
def test_words_with_shared_contexts_end_nearer_than_others(algorithm: Any) -> None:
    vectors = train_static(corpus(), config=replace(CONFIG, algorithm=algorithm, epochs=30))
    alike = [cosine(vectors, *pair) for pair in (("cat", "dog"), ("dog", "fox"), ("paris", "rome"), ("rome", "oslo"))]
    unlike = [cosine(vectors, animal, city) for animal in ANIMALS for city in CITIES]
    assert min(alike) > max(unlike) + 0.2
    assert {word for word, _ in vectors.nearest("cat", k=2)} == {"dog", "fox"}


@pytest.mark.parametrize("changes", [{}, {"algorithm": "cbow", "window": 2, "negative": 3, "sample": 0.1, "seed": 5}])
def test_vectors_are_those_of_gensim_on_the_same_sentences(changes: dict[str, Any]) -> None:
    from gensim.models import Word2Vec

    # Equal counts, first seen in alphabetical order: gensim's own count then has the order of ours. Two batches.
    draw = random.Random(1)
    sentences = [list("abcdef"), *(draw.sample("abcdef", 6) for _ in range(2000))]
    config = replace(CONFIG, epochs=2, **changes)
    reference = Word2Vec(
        sentences,
        vector_size=config.dimension,
        window=config.window,
        epochs=config.epochs,
        sg=int(config.algorithm == "skip-gram"),
        negative=config.negative,
        sample=config.sample,
        seed=config.seed,
        workers=1,
        sorted_vocab=0,
    )
    ours = train_static([Document("0", "\n".join(map(" ".join, sentences)))], config=config)
    for word in "abcdef":
        np.testing.assert_allclose(ours.vector(word), reference.wv[word], rtol=1e-6)


def test_words_and_counts_are_those_of_word_forms_most_frequent_first(trained: StaticVectors) -> None:
    expected = Counter(form for document in corpus() for form in word_forms(document.text))
    assert list(zip(trained.words, trained.counts.tolist(), strict=True)) == sorted(
        expected.items(), key=lambda item: (-item[1], item[0])
    )


def test_equal_runs_with_one_worker_give_equal_vectors(trained: StaticVectors) -> None:
    again = train_static(corpus(), config=CONFIG)
    assert np.array_equal(again.vectors, trained.vectors)
    assert again.fingerprint == trained.fingerprint


def test_another_seed_gives_other_vectors(trained: StaticVectors) -> None:
    other = train_static(corpus(), config=replace(CONFIG, seed=2))
    assert other.words == trained.words
    assert not np.allclose(other.vectors, trained.vectors)


def test_several_workers_train_every_word(trained: StaticVectors) -> None:
    parallel = train_static(corpus(), config=replace(CONFIG, workers=2))
    assert parallel.words == trained.words
    assert parallel.training["trained_tokens"] == trained.training["trained_tokens"]


def test_neighbours_are_not_taken_from_the_next_sentence() -> None:
    # "left" and "right" meet only across sentence ends, so joining the sentences would train other vectors.
    apart = [Document("0", "Left one. Right two. " * 40)]
    lines = [Document(str(number), text) for number, text in enumerate(["Left one.", "Right two."] * 40)]
    one, other = (train_static(documents, config=CONFIG) for documents in (apart, lines))
    joined = train_static([Document("0", "left one right two " * 40)], config=CONFIG)
    assert np.array_equal(one.vectors, other.vectors)
    assert not np.allclose(one.vectors, joined.vectors)


def test_sentences_beyond_ten_thousand_words_are_trained_whole() -> None:
    long = [Document("0", "one two three four " * 4000)]
    vectors = train_static(long, config=replace(CONFIG, epochs=1))
    assert vectors.training["trained_tokens"] == vectors.training["tokens"] == 16_000


def test_case_apostrophe_and_composition_are_one_word() -> None:
    text = "Don’t sit. DON'T sit. don't sit. Cafe\u0301 sits. CAFÉ sits."
    vectors = train_static([Document("0", text)], config=replace(CONFIG, min_count=1))
    assert dict(zip(vectors.words, vectors.counts.tolist(), strict=True)) == {
        "don't": 3, "sit": 3, "café": 2, "sits": 2,
    }  # fmt: skip


def test_forms_below_min_count_are_left_out() -> None:
    vectors = train_static([Document("0", "a b a b c")], config=CONFIG)
    assert vectors.words == ("a", "b")


def test_max_vocabulary_keeps_the_most_frequent_and_among_equals_the_first() -> None:
    vectors = train_static([Document("0", "c c c b b a a d d")], config=replace(CONFIG, max_vocabulary=2))
    assert vectors.words == ("c", "a")


def test_too_many_forms_forget_the_rarest_and_record_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctxembed.word2vec, "_MAX_COUNTED_FORMS", 3)
    vectors = train_static([Document("0", "a a a b b b c d e f"), Document("1", "a b")], config=CONFIG)
    assert dict(zip(vectors.words, vectors.counts.tolist(), strict=True)) == {"a": 4, "b": 4}
    assert vectors.training["forgotten_forms"] == 4


def test_training_record_states_settings_corpus_and_versions(trained: StaticVectors) -> None:
    record = dict(trained.training)
    versions = record.pop("versions")
    assert set(versions) == {"ctxembed", "python", "numpy", "gensim"}
    assert record == {
        "dimension": 16, "window": 3, "min_count": 2, "epochs": 8, "algorithm": "skip-gram", "negative": 10,
        "sample": 0, "max_vocabulary": None, "seed": 1, "workers": 1, "documents": 150, "sentences": 300,
        "tokens": 150 * 17, "forgotten_forms": 0, "trained_tokens": 8 * 150 * 17,
    }  # fmt: skip


def test_progress_is_reported_while_reading_and_after_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctxembed.word2vec, "_DOCUMENTS_BETWEEN_REPORTS", 2)
    seen: list[StaticProgress] = []
    train_static([Document(str(i), "a b") for i in range(3)], config=replace(CONFIG, epochs=2), on_progress=seen.append)
    assert seen == [
        StaticProgress(2, 4, 0, 2),
        StaticProgress(3, 6, 0, 2),
        StaticProgress(3, 6, 1, 2),
        StaticProgress(3, 6, 2, 2),
    ]


def test_training_keeps_gensim_quiet_and_restores_its_level(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("gensim")
    monkeypatch.setattr(logger, "level", logger.level)
    logger.setLevel(logging.INFO)
    train_static(corpus(5), config=CONFIG)
    assert caplog.records == []
    assert logger.level == logging.INFO


def test_one_shot_iterator_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="one-shot iterator"):
        train_static(iter(corpus(5)), config=CONFIG)


@pytest.mark.parametrize(
    "texts, changes, message",
    [
        ([], {}, "the 0 documents hold no word: check the input"),
        (["", "?! …"], {}, "the 2 documents hold no word: check the input"),
        (["a b c"], {}, r"no word occurs min_count = 2 times \(at most 1\): lower it"),
        (["a", "a", "b"], {}, "each of the 3 sentences is a single word.*give running text"),
        (["a b a b"], {"sample": 1e-12}, "sample = 1e-12 passed over all 4 words: set it to 0"),
    ],
)
def test_a_corpus_with_nothing_to_learn_from_is_refused(
    texts: list[str], changes: dict[str, Any], message: str
) -> None:
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    with pytest.raises(InvalidInputError, match=message):
        train_static(documents, config=replace(CONFIG, **changes))


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("dimension", 0, "dimension = 0: must be at least 1"),
        ("window", 0, "window = 0"),
        ("min_count", 0, "min_count = 0"),
        ("epochs", -1, "epochs = -1"),
        ("negative", 0, "negative = 0"),
        ("workers", 0, "workers = 0"),
        ("algorithm", "glove", "algorithm = 'glove': must be one of skip-gram, cbow"),
        ("sample", 1.0, r"sample = 1.0: must be in \[0, 1\)"),
        ("sample", float("nan"), "sample = nan"),
        ("max_vocabulary", 0, "max_vocabulary = 0: must be at least 1, or None"),
        ("seed", -1, "seed = -1: must be in"),
    ],
)
def test_config_refuses_a_value_out_of_range(field: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        StaticConfig(**{field: value})


def test_config_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        CONFIG.epochs = 1  # type: ignore[misc]


# What training gives, looked up and kept


def test_nearest_agrees_with_gensim(trained: StaticVectors) -> None:
    from gensim.models import KeyedVectors

    reference = KeyedVectors(trained.dimension)
    reference.add_vectors(list(trained.words), trained.vectors)
    expected = reference.most_similar("cat", topn=6)
    found = trained.nearest("Cat", k=6)
    assert [word for word, _ in found] == [word for word, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], atol=1e-5)


def test_round_trip_keeps_words_vectors_counts_and_record(trained: StaticVectors, tmp_path: Path) -> None:
    trained.save(tmp_path / "v", dtype="float32")
    loaded = StaticVectors.load(tmp_path / "v")
    assert loaded.words == trained.words
    assert np.array_equal(loaded.vectors, trained.vectors)
    assert np.array_equal(loaded.counts, trained.counts)
    assert loaded.training == trained.training
    assert loaded.fingerprint == trained.fingerprint


def test_saved_in_float16_vectors_stay_close_under_another_fingerprint(trained: StaticVectors, tmp_path: Path) -> None:
    trained.save(tmp_path / "v")
    loaded = StaticVectors.load(tmp_path / "v")
    texts = [document.text for document in corpus(5)]
    assert loaded.vectors.dtype == np.float16
    assert loaded.fingerprint != trained.fingerprint
    np.testing.assert_allclose(loaded.encode(texts), trained.encode(texts), atol=2e-3)
