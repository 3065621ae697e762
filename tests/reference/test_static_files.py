"""Static vectors against gensim: files of other programs, FastText, export, and SIF against its definition."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.sentence_weights import common_component, inverse_frequency
from ctxembed.static import LookupOptions, StaticVectors
from ctxembed.types import Document, Usage
from ctxembed.word2vec import StaticConfig, train_static

gensim = pytest.importorskip("gensim.models")

ENTRIES = ("the", "Bank", "bank", "RIVER", "new_york", "...", "café", "u.s.", "river")
KEPT = ("the", "bank", "café", "river")
VECTORS = np.random.default_rng(1).standard_normal((len(ENTRIES), 5)).astype(np.float32)
SENTENCES = ["the old bank lent money to the river people", "a river bank grew green", "money lent by the bank"] * 8


@pytest.fixture
def keyed() -> object:
    vectors = gensim.KeyedVectors(5)
    vectors.add_vectors(list(ENTRIES), VECTORS)
    return vectors


def documents(texts: Iterable[str] = SENTENCES) -> list[Document]:
    return [Document(str(number), text) for number, text in enumerate(texts)]


def write(keyed: object, path: Path) -> Path:
    """Write one of the four kinds of file by its name."""
    if path.name.startswith("glove"):
        rows = (
            f"{word} {' '.join(f'{value:.6f}' for value in row)}" for word, row in zip(ENTRIES, VECTORS, strict=True)
        )
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    else:
        keyed.save_word2vec_format(str(path), binary=path.suffix == ".bin")  # type: ignore[attr-defined]
    return path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("w2v.txt", "word2vec text"),
        ("w2v.bin", "word2vec binary"),
        ("wiki.vec", "word2vec text"),
        ("glove.5d.txt", "GloVe text"),
        ("w2v.txt.gz", "word2vec text"),
    ],
)
def test_files_of_other_programs_are_recognised_and_their_words_become_forms(
    keyed: object, tmp_path: Path, name: str, kind: str
) -> None:
    path = write(keyed, tmp_path / name)
    vectors = StaticVectors.load(path)
    assert vectors.words == KEPT
    rows = [ENTRIES.index(word) for word in KEPT]
    np.testing.assert_allclose(vectors.vectors, VECTORS[rows], atol=1e-5)
    assert vectors.name == name.split(".")[0]
    assert (vectors.training["format"], vectors.training["entries"], vectors.training["words"]) == (kind, 9, 4)
    assert np.all(np.diff(vectors.counts) <= 0)
    assert vectors.counts[-1] > 0


@pytest.mark.parametrize("name", ["glove.txt", "glove.txt.gz"])
def test_glove_entries_with_blanks_are_no_words_and_harm_none(keyed: object, tmp_path: Path, name: str) -> None:
    first, *rest = write(keyed, tmp_path / "glove.txt").read_bytes().splitlines(keepends=True)
    numbers = b"0.5 -1 2e-3 4 5\n"
    content = b"".join([first, b". . . " + numbers, b"at name@domain.com " + numbers, b"1 2 " + numbers, *rest])
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    vectors = StaticVectors.load(tmp_path / name)
    assert vectors.words == KEPT
    np.testing.assert_allclose(vectors.vectors, VECTORS[[ENTRIES.index(word) for word in KEPT]], atol=1e-5)
    assert (vectors.training["entries"], vectors.training["words"]) == (12, 4)


def test_only_the_first_words_are_kept_where_asked(keyed: object, tmp_path: Path) -> None:
    assert StaticVectors.load(write(keyed, tmp_path / "w2v.bin"), most=2).words == KEPT[:2]


def test_fasttext_binary_gives_the_vectors_of_gensim_to_known_and_unknown_words(tmp_path: Path) -> None:
    from gensim.models.fasttext import FastText, save_facebook_model

    model = FastText([text.split() for text in SENTENCES], vector_size=8, min_count=1, bucket=200, epochs=1, seed=1)
    save_facebook_model(model, str(tmp_path / "ft.bin"))
    vectors = StaticVectors.load(tmp_path / "ft.bin")
    assert vectors.training["format"] == "fastText binary"
    with_subwords = vectors.with_options(LookupOptions(subwords=True))
    for word in ("bank", "riverside"):
        expected = model.wv.get_vector(word) / np.linalg.norm(model.wv.get_vector(word))
        [found] = with_subwords.encode_usages([Usage(word, 0, len(word))])
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not vectors.encode_usages([Usage("riverside", 0, 9)]).any()


@pytest.mark.parametrize("whole_model", [False, True])
def test_pickle_of_gensim_is_refused_with_the_way_out(keyed: object, tmp_path: Path, whole_model: bool) -> None:
    path = tmp_path / "vectors.kv"
    saved = gensim.Word2Vec([text.split() for text in SENTENCES], vector_size=4) if whole_model else keyed
    saved.save(str(path))  # type: ignore[attr-defined]
    with pytest.raises(InvalidInputError, match=r"is a pickle.*any code.*save_word2vec_format\('vectors\.bin'"):
        StaticVectors.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello world, this is text\n", "no file of word vectors"),
        (b"", "no file of word vectors"),
        (b"3 2\nthe 0.1 0.2\nbank 0.1\n", "is damaged, or no word2vec text"),
        (b"the 0.1 0.2\nbank 0.1\n", r"no GloVe text \(line 2 has 1 numbers, the first 2\)"),
        (b"the 0.1 0.2\nbank 0.1 x\n", "is damaged, or no GloVe text"),
        (b"2 4\nthe \x00\x01", "is damaged, or no word2vec binary"),
        (b"1 2\n... 0.1 0.2\n", "none of the 1 entries of .* is a word, such as '...'"),
    ],
)
def test_file_that_holds_no_vectors_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "vectors.txt"
    path.write_bytes(content)
    with pytest.raises((InvalidInputError, ArtifactError), match=message):
        StaticVectors.load(path)


def test_gzip_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt.gz"
    path.write_bytes(gzip.compress(b"1 2\nthe 0.1 0.2\n")[:-9])
    with pytest.raises(ArtifactError, match="is damaged"):
        StaticVectors.load(path)


@pytest.mark.parametrize("name", ["out.txt", "out.bin"])
def test_export_is_read_by_gensim_and_by_ourselves(tmp_path: Path, name: str) -> None:
    vectors = StaticVectors(["ice", "café"], VECTORS[:2], np.array([3, 1]))
    vectors.export(tmp_path / name)
    theirs = gensim.KeyedVectors.load_word2vec_format(str(tmp_path / name), binary=name.endswith(".bin"))
    assert theirs.index_to_key == ["ice", "café"]
    np.testing.assert_allclose(theirs.vectors, VECTORS[:2], atol=1e-6)
    np.testing.assert_allclose(StaticVectors.load(tmp_path / name).vectors, VECTORS[:2], atol=1e-6)


def test_export_of_words_with_white_space_is_refused(tmp_path: Path) -> None:
    vectors = StaticVectors(["ice cream"], VECTORS[:1], np.array([1]))
    with pytest.raises(InvalidInputError, match="1 words hold white space, as 'ice cream'"):
        vectors.export(tmp_path / "out.txt")
    assert not (tmp_path / "out.txt").exists()


SUBWORDS = StaticConfig(dimension=8, min_count=2, epochs=1, sample=0.0, subwords=True, buckets=300)


def test_subwords_equal_gensim_fasttext_and_survive_saving(tmp_path: Path) -> None:
    from gensim.models.fasttext import FastTextKeyedVectors

    vectors = train_static(documents(), config=SUBWORDS)
    assert vectors.subwords is not None
    theirs = FastTextKeyedVectors(8, 3, 6, 300)
    theirs.vectors_ngrams = vectors.subwords.vectors
    vectors.save(tmp_path / "ft", dtype="float32")
    loaded = StaticVectors.load(tmp_path / "ft").with_options(LookupOptions(subwords=True))
    expected = theirs.get_vector("riverside")
    [found] = loaded.encode_usages([Usage("Riverside", 0, 9)])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-6)
    assert loaded.fingerprint == vectors.with_options(LookupOptions(subwords=True)).fingerprint
    assert loaded.name == "ft+subwords"


def test_subwords_that_are_damaged_are_found(tmp_path: Path) -> None:
    train_static(documents(), config=SUBWORDS).save(tmp_path / "ft")
    part = tmp_path / "ft" / "subwords.npy"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"subwords\.npy is damaged"):
        StaticVectors.load(tmp_path / "ft")


def test_training_goes_on_from_given_vectors() -> None:
    config = StaticConfig(dimension=5, min_count=2, epochs=1, sample=0.0)
    start = StaticVectors(["bank", "unheard"], np.full((2, 5), 3.0, np.float32), np.array([2, 1]))
    fresh, begun = train_static(documents(), config=config), train_static(documents(), config=config, start=start)
    assert np.linalg.norm(begun.vector("bank") - 3) < 2 < np.linalg.norm(fresh.vector("bank") - 3)
    assert "unheard" not in begun
    assert begun.training["start"] == start.fingerprint


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({"dimension": 6}, ["bank"], "width 5, dimension = 6"),
        ({}, ["unheard"], "none of the .* words"),
        ({"subwords": True}, ["bank"], "begins at random"),
    ],
)
def test_start_that_does_not_fit_is_refused(changes: dict[str, object], words: list[str], message: str) -> None:
    config = StaticConfig(**{"dimension": 5, "min_count": 2, "epochs": 1, "sample": 0.0, **changes})  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=message):
        train_static(documents(), config=config, start=StaticVectors(words, VECTORS[:1], np.array([1])))


# Sentences


COUNTS = np.array([60, 25, 10, 5])
WORDS = StaticVectors(["the", "bank", "lent", "money"], VECTORS[:4], COUNTS, name="w")


def test_sif_weights_words_by_a_over_a_plus_p() -> None:
    weights = 1e-3 / (1e-3 + COUNTS / 100)
    np.testing.assert_allclose(inverse_frequency(COUNTS), weights)
    total = 2 * weights[0] * VECTORS[0] + weights[3] * VECTORS[3]
    [found] = WORDS.with_options(LookupOptions(sif=True)).encode(["The money, the unheard"])
    np.testing.assert_allclose(found, total / np.linalg.norm(total), atol=1e-6)


def test_common_component_is_that_of_sentences_drawn_by_frequency() -> None:
    generator = np.random.default_rng(2)
    weights = inverse_frequency(COUNTS)
    drawn = generator.choice(4, size=(40_000, 10), p=COUNTS / 100)
    sentences = (VECTORS[:4] * weights[:, None])[drawn].mean(axis=1)
    expected = np.linalg.svd(sentences, full_matrices=False)[2][0]
    found = common_component(VECTORS[:4], COUNTS, weights)
    assert abs(found @ expected) == pytest.approx(1.0, abs=1e-3)


def test_sentences_without_their_common_component_are_at_right_angles_to_it() -> None:
    options = LookupOptions(sif=True, common=True)
    vectors = WORDS.with_options(options).encode(["the bank lent money", "the money", ""])
    common = common_component(VECTORS[:4], COUNTS, inverse_frequency(COUNTS))
    np.testing.assert_allclose(vectors @ common, 0, atol=1e-6)
    assert not vectors[2].any()
    np.testing.assert_array_equal(vectors[:1], WORDS.with_options(options).encode(["the bank lent money"]))


def test_options_show_in_name_and_fingerprint_and_leave_single_words_alone() -> None:
    every = [LookupOptions(), LookupOptions(sif=True), LookupOptions(common=True), LookupOptions(sif=True, common=True)]
    made = [WORDS.with_options(options) for options in every]
    assert [each.name for each in made] == ["w", "w+sif", "w+common", "w+sif+common"]
    assert len({each.fingerprint for each in made}) == 4
    assert made[0].fingerprint == WORDS.fingerprint
    for each in made:
        np.testing.assert_array_equal(
            each.encode_usages([Usage("bank", 0, 4)]), WORDS.encode_usages([Usage("bank", 0, 4)])
        )


def test_subwords_without_any_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="w has no subword vectors: train with --subwords"):
        WORDS.with_options(LookupOptions(subwords=True))
