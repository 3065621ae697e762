from __future__ import annotations

import shutil
from collections.abc import Sequence

import numpy as np
import pytest

from ctxembed.calibration import Calibration
from ctxembed.errors import InvalidInputError
from ctxembed.meaning.compare import LayerSimilarities, compare_usages, parting_layer
from ctxembed.meaning.usages import Background
from ctxembed.text import parse_usage, word_forms
from ctxembed.types import Document, Usage, Vectors
from ctxembed.units import embed_corpus
from ctxembed.vectors import VectorFolder

WATER, MONEY = {"river", "water", "muddy", "boat"}, {"money", "loan", "lent", "cash"}


class ContextEncoder:
    """A word's vector says whether its text is about water or money, and which word it is (faintly)."""

    dimension = 3

    def __init__(self, name: str = "context") -> None:
        self.name = name
        self.fingerprint = name * 8
        self.calls = 0

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        self.calls += 1
        vectors = np.zeros((len(usages), 3), dtype=np.float32)
        for vector, usage in zip(vectors, usages, strict=True):
            forms = set(word_forms(usage.text))
            if word_forms(usage.word):
                vector[:] = len(forms & WATER), len(forms & MONEY), 0.1 + 0.01 * len(usage.word)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.divide(vectors, norms, out=vectors, where=norms > 0)


CORPUS = [
    Document("1", "the boat left the muddy shore by water"),
    Document("2", "the lender lent cash"),
    Document("3", "the bank of the river"),
]
USES = [parse_usage("the [bank] of the river"), parse_usage("a muddy [bank]"), parse_usage("the [bank] lent money")]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CTXEMBED_CACHE", str(tmp_path / "cache"))


def test_uses_of_one_sense_are_nearer_and_the_static_matrix_cannot_tell() -> None:
    class Static(ContextEncoder):
        def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
            return np.tile(np.array([0.6, 0.8, 0], dtype=np.float32), (len(usages), 1))

    result = compare_usages(USES, encoder=ContextEncoder(), static=Static())
    assert result.contextual.shape == (3, 3)
    np.testing.assert_allclose(result.contextual, result.contextual.T)
    assert result.contextual[0, 1] > 0.9 > 0.2 > result.contextual[0, 2]
    assert result.static is not None
    np.testing.assert_allclose(result.static, 1.0, atol=1e-6)


def test_an_unknown_static_word_is_nan_not_zero() -> None:
    class Static(ContextEncoder):
        def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
            vectors = np.tile(np.array([1, 0, 0], dtype=np.float32), (len(usages), 1))
            vectors[1] = 0
            return vectors

    static = compare_usages(USES, encoder=ContextEncoder(), static=Static()).static
    assert static is not None
    assert np.isnan(static).tolist() == [[False, True, False], [True, True, True], [False, True, False]]


def test_nearest_words_come_from_the_background_without_the_word_itself() -> None:
    encoder = ContextEncoder()
    background = Background.load(CORPUS, encoder=encoder)
    result = compare_usages(USES, encoder=encoder, background=background, k=2)
    water = {"boat", "muddy", "shore", "water", "river", "left"}
    assert {near.word for near in result.nearest[0]} <= water
    assert {near.word for near in result.nearest[2]} <= {"lender", "lent", "cash"}
    for near in (near for words in result.nearest for near in words):
        assert near.text[near.start : near.end] == near.word
        assert near.word != "bank"


def test_nearest_equals_brute_force() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((40, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    forms = [f"w{i % 10}" for i in range(40)]
    background = Background(["text"], np.zeros((40, 3), dtype=np.int64), forms, vectors)
    found = background.nearest(vectors[:3], words=["w0", "w1", "other"], k=4)
    for number, word in enumerate(("w0", "w1", "other")):
        best = {
            f: max(float(vectors[number] @ v) for v, g in zip(vectors, forms, strict=True) if g == f)
            for f in set(forms)
        }
        best.pop(word, None)
        expected = sorted(best, key=lambda form: -best[form])[:4]
        assert [near.word for near in found[number]] == expected
        assert found[number][0].similarity == pytest.approx(best[expected[0]], abs=1e-6)


def test_the_background_is_computed_once_for_a_model_and_corpus() -> None:
    first, again, other = ContextEncoder(), ContextEncoder(), ContextEncoder("another")
    Background.load(CORPUS, encoder=first)
    assert len(Background.load(CORPUS, encoder=again)) == len(Background.load(CORPUS, encoder=first))
    Background.load(CORPUS, encoder=other)
    assert (first.calls, again.calls, other.calls) == (1, 0, 1)


def test_a_damaged_cache_is_computed_again(tmp_path) -> None:
    Background.load(CORPUS, encoder=ContextEncoder())
    (part,) = (tmp_path / "cache").rglob("*.npy")
    part.write_bytes(part.read_bytes()[:-4])
    encoder = ContextEncoder()
    assert len(Background.load(CORPUS, encoder=encoder)) > 0
    assert encoder.calls == 1


def test_a_cache_folder_without_manifest_is_computed_again(tmp_path) -> None:
    Background.load(CORPUS, encoder=ContextEncoder())
    (manifest,) = (tmp_path / "cache").rglob("manifest.json")
    manifest.unlink()
    second, third = ContextEncoder(), ContextEncoder()
    assert len(Background.load(CORPUS, encoder=second)) == len(Background.load(CORPUS, encoder=third)) > 0
    assert (second.calls, third.calls) == (1, 0)


def test_an_interrupted_computation_leaves_nothing_in_the_cache(tmp_path) -> None:
    class Interrupted(ContextEncoder):
        def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Background.load(CORPUS, encoder=Interrupted())
    assert list((tmp_path / "cache" / "background").iterdir()) == []


def test_the_folder_of_a_faster_process_is_used_and_left_alone(tmp_path) -> None:
    class Slow(ContextEncoder):
        def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
            Background.load(CORPUS, encoder=ContextEncoder())  # what another process does meanwhile
            (folder,) = cache.glob("[!.]*")
            made.append(folder.stat().st_ino)
            return super().encode_usages(usages, layer=layer)

    cache, made = tmp_path / "cache" / "background", list[int]()
    background = Background.load(CORPUS, encoder=Slow())
    (folder,) = cache.iterdir()
    assert made == [folder.stat().st_ino]
    np.testing.assert_array_equal(background.vectors, VectorFolder.open(folder).vectors())


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, caplog) -> None:
    kept = Background.load(CORPUS, encoder=ContextEncoder())
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").touch()  # no folder can be made in it
    background = Background.load(CORPUS, encoder=ContextEncoder())
    np.testing.assert_array_equal(background.vectors, kept.vectors)
    assert (background.forms, background.texts) == (kept.forms, kept.texts)
    assert "the background is not kept, the cache cannot be written: " in caplog.text


def test_a_folder_of_sentences_is_no_background(fake_encoder, tmp_path) -> None:
    folder = embed_corpus(CORPUS, encoder=fake_encoder, path=tmp_path / "sentences")
    with pytest.raises(InvalidInputError, match="needs --unit content-word"):
        Background.from_folder(folder)


def test_an_empty_background_gives_no_neighbours() -> None:
    background = Background.load([], encoder=ContextEncoder())
    assert len(background) == 0
    assert compare_usages(USES, encoder=ContextEncoder(), background=background).nearest == ((), (), ())


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="nothing to compare"):
        compare_usages([], encoder=ContextEncoder())
    with pytest.raises(InvalidInputError, match=r"context sees nothing in '\.\.\.'"):
        compare_usages([Usage("well ... yes", 5, 8)], encoder=ContextEncoder())


def layers_with(*chances: list[float]) -> list[LayerSimilarities]:
    """Layers whose pairs have these probabilities, first pair first."""
    curve = Calibration(slope=1.0, intercept=0.0)
    views = []
    for layer, values in enumerate(chances):
        count = 2 if len(values) == 1 else 3
        matrix = np.eye(count, dtype=np.float32)
        matrix[np.triu_indices(count, 1)] = np.log(values) - np.log(1 - np.array(values))
        views.append(LayerSimilarities(layer, matrix, curve))
    return views


def test_senses_part_where_the_probabilities_of_pairs_differ_most() -> None:
    assert parting_layer(layers_with([0.5, 0.5, 0.5], [0.9, 0.2, 0.3], [0.9, 0.8, 0.4])) == 1


def test_two_uses_part_where_their_probability_is_lowest() -> None:
    assert parting_layer(layers_with([0.5], [0.6], [0.3], [0.3])) == 2


def test_without_a_scale_or_a_pair_nothing_parts() -> None:
    one = np.ones((1, 1), dtype=np.float32)
    assert parting_layer([LayerSimilarities(0, one, Calibration(slope=1.0, intercept=0.0))]) is None
    assert parting_layer([LayerSimilarities(0, np.eye(3, dtype=np.float32))]) is None
    assert parting_layer([]) is None
