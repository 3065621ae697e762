from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.text import word_form
from ctxembed.types import Document, Span, Usage, Vectors
from ctxembed.units import EmbedCounts, embed_corpus, embed_documents
from ctxembed.vectors import VectorFolder

DOCUMENTS = [Document("a", "The bank of the river.", {"year": 1990}), Document("b", ""), Document("c", "No. 7 lent it")]


class WordEncoder:
    """Gives each usage the vector (start, end, layer), and has characters for tokens."""

    name, dimension, fingerprint = "words", 3, "0" * 64

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        rows = [(usage.start, usage.end, layer or 0) for usage in usages]
        return np.array(rows, dtype=np.float32).reshape(-1, 3)

    def token_spans(self, text: str) -> list[Span]:
        return [Span(i, i + 1, text[i]) for i in range(len(text))]


def test_sentence_rows_are_the_documents(fake_encoder) -> None:
    rows, vectors = embed_documents(DOCUMENTS, fake_encoder)
    assert [(row.id, row.text, row.start) for row in rows] == [(d.id, d.text, None) for d in DOCUMENTS]
    assert rows[0].metadata == {"year": 1990}
    np.testing.assert_array_equal(vectors, fake_encoder.encode([d.text for d in DOCUMENTS]))


def test_word_rows_have_place_id_and_vector_of_their_word() -> None:
    rows, vectors = embed_documents(DOCUMENTS, WordEncoder(), unit="word", layer=2)
    assert [row.text[row.start : row.end] for row in rows] == [
        "The",
        "bank",
        "of",
        "the",
        "river",
        "No",
        "7",
        "lent",
        "it",
    ]
    assert rows[1].id == "a#4-8"
    assert len({row.id for row in rows}) == len(rows)
    np.testing.assert_array_equal(vectors, [(row.start, row.end, 2) for row in rows])


def test_content_word_rows_leave_function_words_and_numbers_out() -> None:
    rows, _ = embed_documents(DOCUMENTS, WordEncoder(), unit="content-word")
    assert [word_form(row.text[row.start : row.end]) for row in rows] == ["bank", "river", "lent"]


def test_token_rows_come_from_the_encoder() -> None:
    rows, vectors = embed_documents([Document("a", "hé")], WordEncoder(), unit="token")
    assert [row.id for row in rows] == ["a#0-1", "a#1-2"]
    assert vectors.shape == (2, 3)


def test_documents_without_words_give_no_rows() -> None:
    rows, vectors = embed_documents([Document("a", "... !")], WordEncoder(), unit="word")
    assert rows == []
    assert vectors.shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"unit": "page"}, "unit 'page': must be one of sentence, word, content-word, token"),
        ({"unit": "sentence", "layer": 1}, "sentence vectors have no layer"),
    ],
)
def test_wrong_choices_are_refused(fake_encoder, arguments: dict, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        embed_documents(DOCUMENTS, fake_encoder, **arguments)


def test_an_encoder_without_the_unit_is_refused_by_name(fake_encoder) -> None:
    with pytest.raises(InvalidInputError, match="fake makes no word vectors"):
        embed_documents(DOCUMENTS, fake_encoder, unit="word")
    with pytest.raises(InvalidInputError, match="words makes no sentence vectors"):
        embed_documents(DOCUMENTS, WordEncoder())


def test_an_interrupted_corpus_resumes_to_the_same_folder(fake_encoder, tmp_path: Path) -> None:
    documents = [Document(str(i), f"word{i} river bank") for i in range(25)]
    seen: list[int] = []

    def interrupt(done: int) -> None:
        seen.append(done)
        if sum(seen) == 15:
            raise KeyboardInterrupt

    options = {"encoder": fake_encoder, "batch_size": 5, "part_rows": 10}
    embed_corpus(documents, path=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(documents, path=tmp_path / "cut", on_progress=interrupt, **options)
    with pytest.raises(ArtifactError, match="unfinished"):
        VectorFolder.open(tmp_path / "cut")
    resumed = embed_corpus(documents, path=tmp_path / "cut", resume=True, **options)
    np.testing.assert_array_equal(resumed.vectors(), fake_encoder.encode([d.text for d in documents]))
    for file in sorted(path.name for path in (tmp_path / "whole").iterdir()):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


# What an earlier run computed


@dataclass(frozen=True)
class Counting:
    """Gives word vectors, and keeps every usage it was asked for."""

    name: str = "words"
    fingerprint: str = "0" * 64
    dimension: int = 3
    asked: list[Usage] = field(default_factory=list)

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        self.asked.extend(usages)
        rows = [(usage.start, usage.end, len(usage.text)) for usage in usages]
        return np.array(rows, dtype=np.float32).reshape(-1, 3)


def test_unchanged_rows_are_not_computed_again_and_the_folder_is_that_of_a_fresh_run(tmp_path: Path) -> None:
    old = [Document(str(i), f"word{i} by the river") for i in range(20)]
    new = [
        Document("moved", old[7].text),
        Document("new", "nothing like it"),
        *old[:5],
        Document("7", "word7 by a river"),
    ]
    embed_corpus(old, encoder=Counting(), path=tmp_path / "old", unit="word", part_rows=11, batch_size=2)
    encoder, counts = Counting(), EmbedCounts()
    how = {"unit": "word", "part_rows": 9, "batch_size": 2}
    embed_corpus(new, encoder=encoder, path=tmp_path / "new", reuse=tmp_path / "old", counts=counts, **how)
    assert {usage.text for usage in encoder.asked} == {"nothing like it", "word7 by a river"}
    assert (counts.rows, counts.reused) == (4 + 3 + 20 + 4, 24)
    assert counts.summary() == ["24 rows reused, 7 computed"]
    embed_corpus(new, encoder=Counting(), path=tmp_path / "fresh", **how)
    files = {path.name: path.read_bytes() for path in (tmp_path / "fresh").iterdir()}
    assert len(files) > 3
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}


def test_nothing_is_reused_of_an_empty_folder(tmp_path: Path) -> None:
    embed_corpus([], encoder=Counting(), path=tmp_path / "old", unit="word")
    counts = EmbedCounts()
    embed_corpus(DOCUMENTS, encoder=Counting(), path=tmp_path / "v", unit="word", reuse=tmp_path / "old", counts=counts)
    assert (counts.rows, counts.reused) == (9, 0)


@pytest.mark.parametrize(
    ("encoder", "how", "message"),
    [
        (
            Counting(name="other", fingerprint="1" * 64),
            {"unit": "word"},
            "by words with fingerprint = '0+', .* by other",
        ),
        (Counting(), {"unit": "content-word"}, "unit = 'word', this run is by words with unit = 'content-word'"),
        (Counting(), {"unit": "word", "layer": 2}, "layer = None, this run is by words with layer = 2"),
    ],
)
def test_vectors_of_another_kind_are_not_reused(tmp_path: Path, encoder: Counting, how: dict, message: str) -> None:
    embed_corpus(DOCUMENTS, encoder=Counting(), path=tmp_path / "old", unit="word")
    with pytest.raises(ArtifactError, match=message):
        embed_corpus(DOCUMENTS, encoder=encoder, path=tmp_path / "new", reuse=tmp_path / "old", **how)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("kept", "asked"), [("int8", "float32"), ("float16", "float32"), ("int8", "float16")])
def test_vectors_that_are_rounded_in_another_way_are_not_reused(tmp_path: Path, kept: str, asked: str) -> None:
    embed_corpus(DOCUMENTS, encoder=Counting(), path=tmp_path / "old", unit="word", dtype=kept)
    how = {"unit": "word", "reuse": tmp_path / "old", "dtype": asked}
    with pytest.raises(ArtifactError, match=f"keeps {kept}, rounded .* writes {asked}: ask for {kept} too"):
        embed_corpus(DOCUMENTS, encoder=Counting(), path=tmp_path / "new", **how)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kept", ["float32", "same"])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_rounded_vectors_are_reused_byte_for_byte(fake_encoder, tmp_path: Path, kept: str, dtype: str) -> None:
    documents = [Document(str(number), f"word{number} by the river {number % 7}") for number in range(300)]
    first = dtype if kept == "same" else kept
    embed_corpus(documents[:250], encoder=fake_encoder, path=tmp_path / "old", dtype=first)
    counts, fresh = EmbedCounts(), EmbedCounts()
    how = {"encoder": fake_encoder, "dtype": dtype}
    embed_corpus(documents[100:], path=tmp_path / "new", reuse=tmp_path / "old", counts=counts, **how)
    embed_corpus(documents[100:], path=tmp_path / "fresh", counts=fresh, **how)
    assert (counts.reused, fresh.reused) == (150, 0)
    assert (counts.loss.rows, fresh.loss.rows) == (50 if kept == "same" else 200, 200)
    files = {path.name: path.read_bytes() for path in (tmp_path / "fresh").iterdir()}
    assert len(files) == 3
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}


def test_rows_without_a_vector_are_counted(fake_encoder) -> None:
    counts = EmbedCounts()
    embed_documents(DOCUMENTS, fake_encoder, counts=counts)
    assert (counts.rows, counts.num_zero) == (3, 1)
    assert counts.summary() == ["1 rows have no vector (no token that the model could read): they are zero"]


def test_an_encoder_that_cannot_average_layers_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match=r"layer = \(1, 2\): words cannot average layers, name one"):
        embed_documents(DOCUMENTS, WordEncoder(), unit="word", layer=(1, 2))
