"""Teachers that are asked live, and caches of their vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.text import word_form
from ctxembed.training import teachers as module
from ctxembed.training.targets import VectorTargets
from ctxembed.training.teachers import LiveTargets, teach
from ctxembed.training.word_cache import (
    ROW_BYTES,
    ReducedTeacher,
    TeacherConfig,
    cache_word_vectors,
    choose_documents,
    principal_axes,
)
from ctxembed.types import Document, Usage, Vectors
from ctxembed.units import embed_corpus
from ctxembed.vector_writer import VectorWriter
from ctxembed.vectors import VectorFolder

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

PLACES, THINGS = ("bank", "river", "plant", "train"), ("bass", "spring", "old crane", "cars", "band")
TEXTS = [f"she read of the {thing} near the {place}" for place in PLACES for thing in THINGS]
DOCUMENTS = [Document(str(number), text) for number, text in enumerate(TEXTS)]


def direction(key: str, width: int) -> Vectors:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(width).astype(np.float32)


@dataclass
class Teacher:
    """A word's vector is one for its form plus one for its text, in a few dimensions of many; it notes what it did."""

    dimension: int = 24
    inner: int = 5
    name: str = "teacher"
    silent: str = ""
    dies_after: int | None = None
    asked: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {self.dimension} {self.inner} {self.silent}"

    def widen(self, vectors: Sequence[Vectors]) -> Vectors:
        mix = np.stack([direction(f"axis {number}", self.dimension) for number in range(self.inner)])
        wide = np.array(vectors, dtype=np.float32).reshape(-1, self.inner) @ mix
        return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-9)

    def encode(self, texts: Sequence[str], *, prompt: str | None = None) -> Vectors:
        self.asked += texts
        return self.widen(
            [direction(text, self.inner) * (self.silent not in text or not self.silent) for text in texts]
        )

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        self.asked += [usage.text for usage in usages]
        vectors = [
            direction(f"{word_form(usage.word)} {layer}", self.inner) + direction(usage.text, self.inner)
            for usage in usages
        ]
        says = np.array([usage.word != self.silent for usage in usages], dtype=np.float32)
        return self.widen(vectors) * says[:, None]


def live(tokenizer: SubwordTokenizer, texts: Sequence[str] = TEXTS, **how: Any) -> LiveTargets:
    return LiveTargets(texts, tokenizer=tokenizer, **{"max_length": 32, **how})


# Asked live


@pytest.mark.parametrize("silent", ["", "bank"])
def test_a_live_teacher_says_what_its_vector_folders_say(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, silent: str
) -> None:
    teacher = Teacher(silent=silent)
    sentences = embed_corpus(DOCUMENTS, encoder=teacher, path=tmp_path / "s")
    words = embed_corpus(DOCUMENTS, encoder=teacher, path=tmp_path / "w", unit="content-word", layer=3)
    kept = VectorTargets(tiny_tokenizer, sentences=[sentences], words=[words], max_length=32)
    asked = live(tiny_tokenizer, sentence_teacher=teacher, word_teacher=teacher, config=TeacherConfig(layer=3))
    rows = np.array([7, 0, 19])
    one, other = asked.lookup(rows), kept.lookup(rows)
    assert len(other.words) >= 6
    assert other.residuals.any(dim=1).sum() >= 3
    for name in ("sentence_rows", "word_rows", "word_starts", "word_ends", "word_forms"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name in ("sentences", "words", "residuals"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-6, rtol=1e-5)
    assert np.array_equal(asked.store.ids, kept.store.ids)
    assert asked.settings["teachers"] == kept.settings["teachers"]
    assert asked.settings["rows_sha256"] == kept.settings["rows_sha256"]


def test_a_live_teacher_is_asked_about_the_rows_of_a_batch_only(tiny_tokenizer: SubwordTokenizer) -> None:
    sentences, words = Teacher(), Teacher()
    asked = live(tiny_tokenizer, sentence_teacher=sentences, word_teacher=words, config=TeacherConfig(sample_words=1))
    words.asked.clear()
    asked.lookup(np.array([3, 5]))
    assert sentences.asked == [TEXTS[3], TEXTS[5]]
    assert set(words.asked) == {TEXTS[3], TEXTS[5]}


def test_vectors_a_live_teacher_does_not_give_are_counted_as_they_are_met(tiny_tokenizer: SubwordTokenizer) -> None:
    teacher = Teacher(silent="bank")
    asked = live(tiny_tokenizer, sentence_teacher=teacher, word_teacher=teacher)
    assert asked.skipped_vectors == 0
    answer = asked.lookup(np.array([0, 5]))  # the first ends in "bank", and its sentence vector is zero too
    assert asked.skipped_vectors == 2
    assert answer.sentence_rows.tolist() == [1]


def test_texts_that_come_again_or_do_not_fit_are_no_rows_of_their_own(tiny_tokenizer: SubwordTokenizer) -> None:
    texts = ["the bank", "", "the river " * 40, "café \ud800 bank", "the bank", "a crane"]
    asked = live(tiny_tokenizer, texts, sentence_teacher=Teacher())
    assert [asked.text(row) for row in range(len(asked.store))] == ["the bank", "café \ud800 bank", "a crane"]
    assert asked.skipped_long == 2


def test_texts_are_kept_apart_over_many_batches(
    tiny_tokenizer: SubwordTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 3)
    asked = live(tiny_tokenizer, TEXTS + TEXTS, sentence_teacher=Teacher())
    assert [asked.text(row) for row in range(len(asked.store))] == TEXTS


def test_means_come_from_a_seeded_sample_and_its_size_is_said(
    tiny_tokenizer: SubwordTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 1)
    said: list[str] = []

    def sampled(seed: int) -> list[str]:
        teacher = Teacher()
        live(tiny_tokenizer, word_teacher=teacher, config=TeacherConfig(sample_words=12, seed=seed), tell=said.append)
        return teacher.asked

    assert sampled(1) == sampled(1) != sampled(2)
    assert 12 <= len(sampled(1)) < 17
    assert said[0].startswith("means of 0 word forms, from a seeded sample of 1")
    everything = live(tiny_tokenizer, word_teacher=Teacher(), tell=said.append)
    assert said[-1] == f"means of {len(everything._means.forms)} word forms, from a seeded sample of 84 content words"
    assert everything.mean_words == 84


def test_a_live_teacher_without_texts_is_refused(tiny_tokenizer: SubwordTokenizer) -> None:
    with pytest.raises(InvalidInputError, match="there is no text of at most 32 tokens"):
        live(tiny_tokenizer, ["", " "], word_teacher=Teacher())


# What a cache will hold


def test_the_size_of_a_cache_is_said_before_the_teacher_is_asked(tmp_path: Path) -> None:
    teacher = Teacher()
    said: list[tuple[str, int]] = []
    cache_word_vectors(
        DOCUMENTS, teacher=teacher, path=tmp_path, tell=lambda line: said.append((line, len(teacher.asked)))
    )
    assert said[0] == ("20 documents, 84 content words: about 0.0 MB", 0)
    assert said[1][1] > 0


def test_the_size_of_a_cache_follows_from_words_width_and_texts() -> None:
    teacher = Teacher()
    chosen = choose_documents(DOCUMENTS, None, teacher, config=TeacherConfig(width=6))
    texts = sum(map(len, TEXTS))
    assert chosen.num_bytes == pytest.approx(84 * (6 + ROW_BYTES) + texts / 2 + 4 * 7 * 24, abs=1)
    with_sentences = choose_documents(DOCUMENTS, teacher, teacher, config=TeacherConfig(width=6))
    more = 20 * (24 + ROW_BYTES) + texts / 2
    assert with_sentences.num_bytes == pytest.approx(chosen.num_bytes + more, abs=1)


def test_documents_are_drawn_by_seed_to_keep_to_the_limit() -> None:
    def draw(seed: int = 0, most: int = 3000) -> list[str]:
        chosen = choose_documents(DOCUMENTS, None, Teacher(), config=TeacherConfig(width=6, max_bytes=most, seed=seed))
        assert chosen.num_bytes <= most
        assert "drawn from 20, which would take 0.0 MB" in chosen.summary
        assert len(list(chosen)) == len(chosen) < 20
        assert list(chosen) == sorted(chosen, key=lambda document: int(document.id))
        return [document.id for document in chosen]

    assert draw() == draw() != draw(seed=1)
    assert len(draw(most=2500)) < len(draw())


def test_a_limit_too_low_for_one_document_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"max_bytes = 10: the first document takes \d+, raise it"):
        choose_documents(DOCUMENTS, None, Teacher(), config=TeacherConfig(max_bytes=10))


def test_documents_that_can_be_read_once_only_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="one-shot iterator"):
        cache_word_vectors(iter(DOCUMENTS), teacher=Teacher(), path=tmp_path)


@pytest.mark.parametrize(("documents", "message"), [([], "there is no text"), (["of it"], "hold no content word")])
def test_nothing_to_ask_about_is_refused(tmp_path: Path, documents: list[str], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        cache_word_vectors([Document("a", text) for text in documents], teacher=Teacher(), path=tmp_path)


# The axes


def test_axes_are_the_principal_components() -> None:
    from sklearn.decomposition import PCA

    vectors = np.random.default_rng(2).standard_normal((50, 7)).astype(np.float32) * np.arange(1, 8, dtype=np.float32)
    mean, axes = principal_axes(vectors, width=4)
    expected = PCA(4, svd_solver="full").fit(vectors)
    np.testing.assert_allclose(mean, expected.mean_, atol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(axes * expected.components_, axis=1)), 1.0, atol=1e-5)
    assert (axes[np.arange(4), np.abs(axes).argmax(axis=1)] > 0).all()


def test_a_reduced_teacher_gives_coordinates_and_keeps_silence(tmp_path: Path) -> None:
    teacher = Teacher(silent="bank")
    cache_word_vectors(DOCUMENTS, teacher=teacher, path=tmp_path, config=TeacherConfig(width=5))
    axes = VectorFolder.open(tmp_path / "axes")
    reduced = ReducedTeacher(teacher, axes)
    usages = [Usage("the river bank", 4, 9), Usage("the river bank", 10, 14)]
    mean, directions = np.split(axes.vectors(), [1])
    found = reduced.encode_usages(usages)
    np.testing.assert_allclose(found[0], directions @ (teacher.encode_usages(usages)[0] - mean[0]), atol=1e-5)
    assert not found[1].any()
    assert reduced.dimension == 5
    assert reduced.fingerprint != teacher.fingerprint


# The cache


def cosines(vectors: torch.Tensor) -> torch.Tensor:
    unit = torch.nn.functional.normalize(vectors, dim=1)
    return unit @ unit.T


def test_a_cache_keeps_the_cosines_that_are_learned_from(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    teacher = Teacher()
    whole = embed_corpus(DOCUMENTS, encoder=teacher, path=tmp_path / "whole", unit="content-word", layer=2)
    kept = cache_word_vectors(
        DOCUMENTS, teacher=teacher, path=tmp_path / "cache", config=TeacherConfig(layer=2, width=6)
    )
    assert (kept.manifest.dtype, kept.dimension, len(kept)) == ("int8", 6, len(whole))
    assert (kept.settings["unit"], kept.settings["layer"]) == ("content-word", 2)
    expected, found = (
        VectorTargets(tiny_tokenizer, words=[folder], max_length=32).lookup(np.arange(20)) for folder in (whole, kept)
    )
    assert torch.equal(expected.word_starts, found.word_starts)
    assert torch.equal(expected.word_forms, found.word_forms)
    # All of the teacher lies in five directions: what is lost are the bytes.
    torch.testing.assert_close(cosines(found.words), cosines(expected.words), atol=0.02, rtol=0)
    common = expected.residuals.any(dim=1)
    assert torch.equal(found.residuals.any(dim=1), common)
    assert common.sum() > 20
    torch.testing.assert_close(cosines(found.residuals[common]), cosines(expected.residuals[common]), atol=0.05, rtol=0)


@pytest.mark.parametrize(("width", "low", "high"), [(6, 0.999, 1.0), (2, 0.3, 0.99)])
def test_what_the_axes_lose_is_measured_and_said(tmp_path: Path, width: int, low: float, high: float) -> None:
    said: list[str] = []
    cache_word_vectors(DOCUMENTS, teacher=Teacher(), path=tmp_path, config=TeacherConfig(width=width), tell=said.append)
    facts = next(VectorFolder.open(tmp_path / "axes").rows()).metadata
    assert (facts["fitted_words"], facts["measured_words"]) == (68, 16)
    for name in ("cosine", "centred_cosine", "residual_cosine"):
        assert low < facts[name] <= high
    assert said[1].startswith(f"{width} of 24 axes: mean cosine {facts['cosine']} to the vectors themselves, ")


def test_a_teacher_narrower_than_the_cache_is_kept_whole(tmp_path: Path) -> None:
    kept = cache_word_vectors(DOCUMENTS, teacher=Teacher(), path=tmp_path)
    assert kept.dimension == 24


def test_one_document_makes_and_measures_the_axes(tmp_path: Path) -> None:
    kept = cache_word_vectors(DOCUMENTS[:1], teacher=Teacher(), path=tmp_path, config=TeacherConfig(width=2))
    facts = next(VectorFolder.open(tmp_path / "axes").rows()).metadata
    assert facts["fitted_words"] == facts["measured_words"] == len(kept) == 4
    assert facts["residual_cosine"] is None


def test_a_silent_teacher_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    documents = [Document("a", "the bank")]
    with pytest.raises(InvalidInputError, match="teacher has no vector for any word of the sample"):
        cache_word_vectors(documents, teacher=Teacher(silent="bank"), path=tmp_path)
    assert not (tmp_path / "axes").exists()


def test_a_finished_cache_is_not_computed_again(tmp_path: Path) -> None:
    first = cache_word_vectors(DOCUMENTS, teacher=Teacher(), path=tmp_path)
    teacher = Teacher()
    again = cache_word_vectors(DOCUMENTS, teacher=teacher, path=tmp_path)
    assert teacher.asked == []
    np.testing.assert_array_equal(first.vectors(), again.vectors())


def test_an_interrupted_cache_goes_on_behind_its_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxembed.units.VectorWriter", partial(VectorWriter, part_rows=10))
    documents = [Document(str(number), f"the bank {number}") for number in range(5000)]
    config = TeacherConfig(width=3, sample_words=100)
    whole = cache_word_vectors(documents, teacher=Teacher(), path=tmp_path / "whole", config=config)
    with pytest.raises(KeyboardInterrupt):
        cache_word_vectors(documents, teacher=Teacher(dies_after=2500), path=tmp_path / "killed", config=config)
    teacher = Teacher()
    again = cache_word_vectors(documents, teacher=teacher, path=tmp_path / "killed", config=config)
    assert len(whole.manifest.parts) == 3
    assert 0 < len(teacher.asked) < 5000 - 2000
    np.testing.assert_array_equal(again.vectors(), whole.vectors())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": Teacher(name="other")}, "begun with fingerprint = 'teacher 24 5 '"),
        ({"config": TeacherConfig(layer=1)}, "begun with layer = None, now it is 1"),
        ({"config": TeacherConfig(width=7)}, "begun with width = 24, now it is 7"),
        ({"documents": DOCUMENTS[1:]}, "the input has changed since"),
    ],
)
def test_a_cache_of_something_else_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    how: dict[str, Any] = {"documents": DOCUMENTS, "teacher": Teacher(), "config": TeacherConfig()}
    cache_word_vectors(how.pop("documents"), path=tmp_path, **how)
    how = {"documents": DOCUMENTS, **how, **change}
    with pytest.raises(ArtifactError, match=message):
        cache_word_vectors(how.pop("documents"), path=tmp_path, **how)


# From teachers to targets


def test_a_cache_decides_whether_teachers_are_asked_live(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    teacher, progress, said = Teacher(), [], []
    how: dict[str, Any] = {
        "tokenizer": tiny_tokenizer,
        "max_length": 32,
        "sentence_teacher": teacher,
        "word_teacher": teacher,
        "tell": said.append,
    }
    assert isinstance(teach(DOCUMENTS, **how), LiveTargets)
    kept = teach(DOCUMENTS, **how, cache=tmp_path / "c", on_progress=progress.append)
    assert isinstance(kept, VectorTargets)
    assert (len(kept.store), kept.sentence_dimension, kept.word_dimension) == (20, 24, 24)
    assert sum(progress) == 2 * len(DOCUMENTS)
    assert len(said) == 3
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["axes", "sentences", "words"]
    assert VectorFolder.open(tmp_path / "c" / "sentences").manifest.dtype == "int8"
    found = kept.lookup(np.array([4])).sentences
    np.testing.assert_allclose(found, teacher.encode([TEXTS[4]]), atol=0.01)


def test_both_teachers_are_cached_for_the_same_documents(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    targets = teach(
        DOCUMENTS,
        tokenizer=tiny_tokenizer,
        max_length=32,
        sentence_teacher=Teacher(),
        word_teacher=Teacher(),
        cache=tmp_path,
        config=TeacherConfig(width=3, max_bytes=3000),
    )
    answer = targets.lookup(np.arange(len(targets.store)))
    assert 3 <= len(targets.store) < 15
    assert answer.sentence_rows.tolist() == sorted(set(answer.word_rows.tolist())) == list(range(len(targets.store)))


def test_no_teacher_is_refused(tiny_tokenizer: SubwordTokenizer) -> None:
    with pytest.raises(InvalidInputError, match="no teacher is given"):
        teach(DOCUMENTS, tokenizer=tiny_tokenizer, max_length=32)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "width = 0: must be at least 1"),
        ({"sample_words": 0}, "sample_words = 0: must be at least 1"),
        ({"max_bytes": 0}, "max_bytes = 0: must be at least 1, or left out"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        TeacherConfig(**values)


class Restartable:
    """Counts how often it is gone through."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[Document]:
        self.passes += 1
        return (replace(document) for document in DOCUMENTS)


def test_a_live_teacher_reads_the_documents_once(tiny_tokenizer: SubwordTokenizer) -> None:
    documents = Restartable()
    teach(documents, tokenizer=tiny_tokenizer, max_length=32, word_teacher=Teacher())
    assert documents.passes == 1
