from __future__ import annotations

import json
import logging
import random
import shutil
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import ctxembed.static
from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.runtime import sha256_file
from ctxembed.static import Coverage, StaticConfig, StaticProgress, StaticVectors, train_static
from ctxembed.text import find_usage, word_forms
from ctxembed.types import Document, TextEncoder, Usage, UsageEncoder

ANIMALS = ("cat", "dog", "fox")
CITIES = ("paris", "rome", "oslo")
# sample=0: in a corpus of twenty words each one is "frequent", and sub-sampling would drop nearly all.
CONFIG = StaticConfig(dimension=16, window=3, min_count=2, epochs=8, sample=0)

WORDS = ("ice", "cream", "café", "don't", "bank")
VECTORS = np.array([[3, 0, 0], [0, 4, 0], [0, 0, 2], [-1, -1, 0], [0.5, 0.5, 0]], np.float32)
COUNTS = np.array([9, 7, 7, 2, 1])


def corpus(size: int = 150) -> list[Document]:
    draw = random.Random(3)
    sentences = "Every {} eats raw meat and sleeps outside. They flew by plane to {} for a holiday."
    texts = [sentences.format(draw.choice(ANIMALS), draw.choice(CITIES)) for _ in range(size)]
    return [Document(str(number), text) for number, text in enumerate(texts)]


@pytest.fixture(scope="module")
def trained() -> StaticVectors:
    return train_static(corpus(), config=CONFIG)


@pytest.fixture
def small() -> StaticVectors:
    return StaticVectors(WORDS, VECTORS, COUNTS, name="small")


@pytest.fixture
def folder(small: StaticVectors, tmp_path: Path) -> Path:
    small.save(tmp_path / "vectors", dtype="float32")
    return tmp_path / "vectors"


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
    monkeypatch.setattr(ctxembed.static, "_MAX_COUNTED_FORMS", 3)
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
    monkeypatch.setattr(ctxembed.static, "_DOCUMENTS_BETWEEN_REPORTS", 2)
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


# Encoding


def test_static_vectors_offer_both_protocols(small: StaticVectors) -> None:
    assert isinstance(small, TextEncoder)
    assert isinstance(small, UsageEncoder)
    assert (small.name, small.dimension, len(small)) == ("small", 3, 5)


def test_encode_is_the_unit_mean_of_the_known_words(small: StaticVectors) -> None:
    mean = (2 * VECTORS[0] + VECTORS[1] + VECTORS[2]) / 4
    encoded = small.encode(["Ice, ice cream in the CAFÉ!"])
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded, [mean / np.linalg.norm(mean)], rtol=1e-6)


def test_encode_keeps_the_order_and_gives_zero_rows_for_texts_without_a_known_word(small: StaticVectors) -> None:
    encoded = small.encode(["bank", "", "nothing here", "?!", "ice"])
    np.testing.assert_allclose(encoded[[0, 4]], [[0.5**0.5, 0.5**0.5, 0], [1, 0, 0]], rtol=1e-6)
    assert not encoded[1:4].any()


def test_encode_of_opposite_words_is_a_zero_row() -> None:
    vectors = StaticVectors(["up", "down"], np.array([[1, 2], [-1, -2]], np.float32), np.array([1, 1]))
    assert not vectors.encode(["up down"]).any()


def test_encode_without_texts_has_no_rows(small: StaticVectors) -> None:
    assert small.encode([]).shape == (0, 3)


def test_encode_refuses_a_single_string(small: StaticVectors) -> None:
    with pytest.raises(InvalidInputError, match=r"texts is the string 'ice cream'.*pass a list"):
        small.encode("ice cream")


def test_prompt_counts_as_words_before_every_known_text(small: StaticVectors) -> None:
    encoded = small.encode(["cream", "unheard"], prompt="ice: ")
    np.testing.assert_array_equal(encoded[0], small.encode(["ice cream"])[0])
    assert not encoded[1].any()


@given(st.lists(st.sampled_from([*WORDS, "unheard"]), max_size=12), st.randoms())
def test_encode_is_a_unit_or_zero_row_and_knows_no_order(words: list[str], random: Any) -> None:
    vectors = StaticVectors(WORDS, np.abs(VECTORS), COUNTS)  # without signs no two cancel
    shuffled = random.sample(words, len(words))
    together = vectors.encode([" ".join(words), " ".join(shuffled)])
    alone = vectors.encode([" ".join(words)])
    assert together.tolist() == [*alone.tolist(), *alone.tolist()]
    assert np.linalg.norm(alone[0]) == pytest.approx(1 if any(word in vectors for word in words) else 0, abs=1e-6)


def test_usage_has_the_vector_of_its_word_in_every_context(small: StaticVectors) -> None:
    usages = [find_usage("The Bank lent money", "bank"), find_usage("on the bank of a river", "bank")]
    encoded = small.encode_usages(usages, layer=0)
    np.testing.assert_allclose(encoded, [[0.5**0.5, 0.5**0.5, 0]] * 2, rtol=1e-6)


@pytest.mark.parametrize("word, expected", [("Ice Cream", [0.6, 0.8, 0]), ("ice floe", [1, 0, 0]), ("floe", [0, 0, 0])])
def test_usage_of_several_words_is_the_mean_of_the_known(
    small: StaticVectors, word: str, expected: list[float]
) -> None:
    usage = Usage(f"an {word} here", 3, 3 + len(word))
    np.testing.assert_allclose(small.encode_usages([usage]), [expected], rtol=1e-6)


def test_usage_of_a_word_with_a_space_that_has_its_own_vector_is_that_vector() -> None:
    vectors = StaticVectors(["ice", "ice cream"], np.array([[1, 0], [0, 1]], np.float32), np.array([2, 1]))
    assert vectors.encode_usages([Usage("Ice cream", 0, 9)]).tolist() == [[0, 1]]


def test_no_usages_give_no_rows(small: StaticVectors) -> None:
    assert small.encode_usages([]).shape == (0, 3)


@pytest.mark.parametrize("layer", [-1, 1, 6])
def test_usage_of_another_layer_is_refused(small: StaticVectors, layer: int) -> None:
    with pytest.raises(InvalidInputError, match=f"layer = {layer}: static vectors have no layers"):
        small.encode_usages([Usage("ice", 0, 3)], layer=layer)


@pytest.mark.parametrize("start, end", [(-3, 3), (2, 2), (3, 1), (0, 4)])
def test_usage_outside_its_text_is_refused(small: StaticVectors, start: int, end: int) -> None:
    with pytest.raises(InvalidInputError, match=f"usage 1 marks characters {start} to {end} of a text of 3"):
        small.encode_usages([Usage("ice", 0, 3), Usage("ice", start, end)])


# Looking up


def test_vector_is_as_trained_and_found_by_any_writing_of_the_word(small: StaticVectors) -> None:
    assert small.vector("Cafe\u0301").tolist() == [0, 0, 2]
    assert small.vector("DON’T").tolist() == [-1, -1, 0]
    assert small.vector("ice").dtype == np.float32


def test_vector_that_is_changed_leaves_the_others(small: StaticVectors) -> None:
    small.vector("ice")[:] = 0
    assert small.vector("ice").tolist() == [3, 0, 0]
    with pytest.raises(ValueError, match="read-only"):
        small.vectors[0] = 0


@pytest.mark.parametrize(
    "word, advice",
    [("bnak", "5 that have a vector: did you mean 'bank'"), ("zzzzzz", "train on more text, or lower min_count")],
)
def test_unknown_word_is_refused_with_the_nearest_spellings(small: StaticVectors, word: str, advice: str) -> None:
    with pytest.raises(InvalidInputError, match=f"the word '{word}' is none of the .*{advice}"):
        small.vector(word)


def test_in_compares_lookup_forms(small: StaticVectors) -> None:
    assert "CAFÉ" in small
    assert "coffee" not in small
    assert 3 not in small


def test_coverage_counts_every_occurrence(small: StaticVectors) -> None:
    assert small.coverage(["ice", "Ice", "floe"]) == Coverage(known=2, unknown=1)
    assert small.coverage([]) == Coverage(known=0, unknown=0)


def test_nearest_agrees_with_gensim(trained: StaticVectors) -> None:
    from gensim.models import KeyedVectors

    reference = KeyedVectors(trained.dimension)
    reference.add_vectors(list(trained.words), trained.vectors)
    expected = reference.most_similar("cat", topn=6)
    found = trained.nearest("Cat", k=6)
    assert [word for word, _ in found] == [word for word, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], atol=1e-5)


def test_nearest_gives_all_others_where_k_is_larger(small: StaticVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctxembed.static, "_BLOCK_ROWS", 2)  # the last block is not full
    found = small.nearest("bank", k=99)
    assert [word for word, _ in found] == ["ice", "cream", "café", "don't"]
    np.testing.assert_allclose([score for _, score in found], [0.5**0.5, 0.5**0.5, 0, -1], atol=1e-12)


def test_nearest_puts_the_more_frequent_first_among_equals() -> None:
    words = [f"w{number}" for number in range(200)]
    vectors = StaticVectors(words, np.ones((200, 2), np.float32), np.arange(200, 0, -1))
    assert [word for word, _ in vectors.nearest("w7", k=199)] == words[:7] + words[8:]


def test_nearest_refuses_k_below_one(small: StaticVectors) -> None:
    with pytest.raises(InvalidInputError, match="k = 0: must be at least 1"):
        small.nearest("ice", k=0)


# Construction


@pytest.mark.parametrize(
    "words, vectors, counts, message",
    [
        (["a", "b"], np.ones((3, 2), np.float32), [1, 1], r"2 words, vectors of shape \(3, 2\)"),
        (["a", "b"], np.ones((2, 2), np.float32), [1], r"counts of shape \(1,\)"),
        (["a"], np.ones(1, np.float32), [1], r"need one vector \(V, D\)"),
        ([], np.ones((0, 2), np.float32), [], "at least one word"),
        (["a"], np.ones((1, 0), np.float32), [1], r"shape \(1, 0\)"),
        (["a"], np.ones((1, 2)), [1], "the vectors are float64, need float32 or float16"),
        (["a"], np.array([[1, np.nan]], np.float32), [1], "NaN or infinity"),
        (["a"], np.array([[1, -np.inf]], np.float16), [1], "NaN or infinity"),
        (["a", "a"], np.ones((2, 2), np.float32), [1, 1], "the word 'a' stands 2 times"),
        (["a", ""], np.ones((2, 2), np.float32), [1, 1], "1 words are empty or hold a line break"),
        (["a\nb"], np.ones((1, 2), np.float32), [1], r"hold a line break, as \['a\\nb'\]"),
        (["a", "b"], np.ones((2, 2), np.float32), [1, 2], "most frequent first"),
        (["a"], np.ones((1, 2), np.float32), [1.5], "the counts are no integers"),
    ],
)
def test_parts_that_do_not_fit_are_refused(words: list[str], vectors: NDArray[Any], counts: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        StaticVectors(words, vectors, np.array(counts))


# Formats on disk


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


def test_equal_vectors_give_equal_files(small: StaticVectors, tmp_path: Path) -> None:
    for place in ("one", "two"):
        small.save(tmp_path / place / "v")
    files = sorted(path.name for path in (tmp_path / "one" / "v").iterdir())
    assert files == ["counts.npy", "manifest.json", "vectors.npy", "words.txt"]
    for file in files:
        assert (tmp_path / "one" / "v" / file).read_bytes() == (tmp_path / "two" / "v" / file).read_bytes()


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1), min_size=1, unique=True))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_words_of_any_characters_come_back(tmp_path: Path, words: list[str]) -> None:
    StaticVectors(words, np.ones((len(words), 1), np.float32), np.ones(len(words), np.int64)).save(tmp_path / "v")
    assert StaticVectors.load(tmp_path / "v").words == tuple(words)


def test_name_is_the_folder_or_the_one_given(folder: Path) -> None:
    assert StaticVectors.load(folder).name == "vectors"
    assert StaticVectors.load(folder, name="w2v").name == "w2v"


def test_fingerprint_changes_with_a_word_and_with_a_value(small: StaticVectors) -> None:
    other_word = StaticVectors([*WORDS[:4], "shore"], VECTORS, COUNTS)
    other_value = StaticVectors(WORDS, VECTORS + np.float32(1e-6), COUNTS)
    prints = {vectors.fingerprint for vectors in (small, other_word, other_value)}
    assert len(prints) == 3
    assert StaticVectors(WORDS, VECTORS.copy(), COUNTS, name="other").fingerprint in prints


def test_save_replaces_the_folder_it_was_loaded_from(folder: Path) -> None:
    loaded = StaticVectors.load(folder)
    loaded.save(folder, dtype="float16")
    assert StaticVectors.load(folder).vectors.tolist() == loaded.vectors.tolist() == VECTORS.tolist()


def test_save_refuses_a_folder_that_holds_anything_else(small: StaticVectors, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InvalidInputError, match=r"holds thesis.tex and is no folder of static vectors"):
        small.save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_save_refuses_the_place_of_a_file(small: StaticVectors, tmp_path: Path) -> None:
    (tmp_path / "v").write_text("")
    with pytest.raises(InvalidInputError, match="is a file, need a folder"):
        small.save(tmp_path / "v")


def test_save_refuses_a_value_beyond_float16(tmp_path: Path) -> None:
    large = StaticVectors(["a"], np.array([[-70_000, 1]], np.float32), np.array([1]))
    with pytest.raises(InvalidInputError, match="the value 70000, float16 ends at 65504: save as float32"):
        large.save(tmp_path / "v")
    large.save(tmp_path / "v", dtype="float32")
    assert StaticVectors.load(tmp_path / "v").vector("a").tolist() == [-70_000, 1]


def test_save_refuses_an_unknown_type(small: StaticVectors, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="dtype = 'int8': must be one of float16, float32"):
        small.save(tmp_path / "v", dtype="int8")  # type: ignore[arg-type]


def test_load_without_a_folder_or_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="nowhere does not exist"):
        StaticVectors.load(tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match=r"manifest\.json does not exist"):
        StaticVectors.load(tmp_path)


@pytest.mark.parametrize("part", ["vectors.npy", "words.txt", "counts.npy"])
def test_damaged_part_is_refused_by_name(folder: Path, part: str) -> None:
    data = bytearray((folder / part).read_bytes())
    data[-2] ^= 1
    (folder / part).write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"{part} is damaged \(its sha256 differs\)"):
        StaticVectors.load(folder)


@pytest.mark.parametrize("part", ["vectors.npy", "words.txt", "counts.npy"])
def test_missing_part_is_refused_by_name(folder: Path, part: str) -> None:
    (folder / part).unlink()
    with pytest.raises(ArtifactError, match=f"{part} is missing"):
        StaticVectors.load(folder)


def rewrite(folder: Path, **changes: Any) -> None:
    """Change the manifest, with hashes that fit the parts as they now are; None takes an entry out."""
    record = json.loads((folder / "manifest.json").read_text())
    record["sha256"] = {part: sha256_file(folder / part) for part in record["sha256"]}
    record |= changes
    (folder / "manifest.json").write_text(json.dumps({k: v for k, v in record.items() if v is not None}))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format": "ctxembed-vectors"}, "has format 'ctxembed-vectors', need 'ctxembed-static'"),
        ({"version": 2}, "has version 2, this ctxembed reads 1"),
        ({"words": 4}, r"vectors.npy is float32 \(5, 3\), the manifest says float32 \(4, 3\)"),
        ({"dimension": 2}, "vectors.npy is float32"),
        ({"dtype": "float16"}, "the manifest says float16"),
        ({"dimension": None}, r"does not fit its manifest.json \(KeyError\('dimension'\)"),
        ({"sha256": "none"}, "does not fit its manifest.json"),
        ({"sha256": {}}, "does not fit its manifest.json"),
        ({"training": 3}, "does not fit its manifest.json"),
    ],
)
def test_manifest_that_does_not_fit_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(folder, **changes)
    with pytest.raises(ArtifactError, match=message):
        StaticVectors.load(folder)


def test_manifest_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
        StaticVectors.load(folder)


@pytest.mark.parametrize(
    "part, data, message",
    [
        ("words.txt", b"one\ntwo\n", r"2 words, vectors of shape \(5, 3\)"),
        ("words.txt", b"a\na\nb\nc\nd\n", "the word 'a' stands 2 times"),
        ("words.txt", b"\xff\n", "UnicodeDecodeError"),
        ("vectors.npy", b"no array", r"vectors\.npy is damaged"),
        ("vectors.npy", b"", r"vectors\.npy is damaged"),
    ],
)
def test_part_with_a_fitting_hash_but_unusable_content_is_refused(
    folder: Path, part: str, data: bytes, message: str
) -> None:
    (folder / part).write_bytes(data)
    rewrite(folder)
    with pytest.raises(ArtifactError, match=message):
        StaticVectors.load(folder)


def test_pickled_array_is_refused(folder: Path) -> None:
    np.save(folder / "counts.npy", np.array([{}], object), allow_pickle=True)
    rewrite(folder)
    with pytest.raises(ArtifactError, match=r"counts\.npy is damaged"):
        StaticVectors.load(folder)


def test_loaded_vectors_stay_on_disk(folder: Path) -> None:
    base = StaticVectors.load(folder).vectors
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        assert base.base is not None
        base = base.base
    assert isinstance(base, np.memmap)


def test_copied_folder_loads_under_its_new_name(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    copy = StaticVectors.load(tmp_path / "copy")
    assert copy.name == "copy"
    assert copy.fingerprint == StaticVectors.load(folder).fingerprint
