from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxembed.errors import InvalidInputError
from ctxembed.text import word_form, word_spans
from ctxembed.training import targets as module
from ctxembed.training.objectives.distill import TeacherBatch
from ctxembed.training.targets import (
    COMMON_FORM,
    TextRows,
    VectorTargets,
    content_words,
    form_keys,
    form_means,
    text_keys,
    token_places,
)
from ctxembed.types import Document, Usage, Vectors
from ctxembed.units import embed_documents
from ctxembed.vector_writer import VectorWriter
from ctxembed.vectors import Row, VectorFolder

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

WIDTH = 4
BANKS = [f"the bank near the old {what}" for what in ("river", "train", "plant", "farmer")]
LONG = "the bank of the river " * 8


def number_of(row: Row) -> float:
    """A small number that is different for every text and place, and exact in half precision."""
    return (sum(map(ord, row.text)) % 61) / 4 + (row.start or 0) / 64


def vector_of(row: Row, width: int = WIDTH) -> Vectors:
    return np.arange(1, width + 1, dtype=np.float32) * number_of(row) + np.eye(width, dtype=np.float32)[0]


def write(
    folder: Path,
    rows: list[Row],
    *,
    width: int = WIDTH,
    part_rows: int = 100,
    silent: Sequence[str] = (),
    fingerprint: str = "teacher",
    layer: int | None = None,
    dtype: str = "float32",
) -> VectorFolder:
    """Write what the teacher says; what it is silent about is a zero vector."""
    vectors = np.array([vector_of(row, width) for row in rows], dtype=np.float32)
    vectors[[row.text[row.start : row.end] in silent for row in rows]] = 0.0
    settings = {"model": "teacher", "fingerprint": fingerprint, "unit": "word", "layer": layer}
    with VectorWriter(folder, settings=settings, dimension=width, part_rows=part_rows, dtype=dtype) as writer:
        for number, row in enumerate(rows):
            writer.append([row], vectors[number : number + 1], documents=[Document(row.id, row.text)])
    return VectorFolder.open(folder)


def whole(texts: list[str]) -> list[Row]:
    return [Row(str(number), text) for number, text in enumerate(texts)]


def words(texts: list[str]) -> list[Row]:
    return [
        Row(f"{number}:{span.start}", text, span.start, span.end)
        for number, text in enumerate(texts)
        for span in word_spans(text)
    ]


def asked(targets: VectorTargets, rows: list[int]) -> TeacherBatch:
    return targets.lookup(np.array(rows))


def stands_for(
    targets: VectorTargets, rows: list[int], answer: TeacherBatch, tokenizer: SubwordTokenizer
) -> list[tuple[int, str]]:
    """Read back the row of each word and the letters of its tokens."""
    places = zip(answer.word_rows.tolist(), answer.word_starts.tolist(), answer.word_ends.tolist(), strict=True)
    pieces = [[tokenizer.token(token).removeprefix("##") for token in targets.store.row(row).tolist()] for row in rows]
    return [(row, "".join(pieces[row][start:end])) for row, start, end in places]


# Sentences


def test_each_row_gets_the_sentence_vector_of_its_text(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    folders = [write(tmp_path / "a", whole(BANKS[:2])), write(tmp_path / "b", whole(BANKS[2:]))]
    targets = VectorTargets(tiny_tokenizer, sentences=folders, max_length=32)
    assert (len(targets.store), targets.sentence_dimension, targets.word_dimension) == (4, WIDTH, 0)
    answer = asked(targets, [3, 0, 2])
    expected = np.array([vector_of(Row("", BANKS[number])) for number in (3, 0, 2)])
    assert answer.sentence_rows.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(answer.sentences.numpy(), expected)
    assert len(answer.words) == len(answer.word_rows) == 0


def test_rows_of_the_store_are_the_texts_between_special_tokens(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    targets = VectorTargets(tiny_tokenizer, sentences=[write(tmp_path / "a", whole(BANKS))], max_length=32)
    for number, ids in enumerate(tiny_tokenizer.encode_ids(BANKS)):
        row = targets.store.ids[targets.store.starts[number] : targets.store.starts[number + 1]]
        assert row.tolist() == [tiny_tokenizer.cls_id, *ids.tolist(), tiny_tokenizer.sep_id]


def test_a_row_without_sentence_vector_is_left_out_of_the_sentences(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    sentences, marked = write(tmp_path / "a", whole(BANKS[1:3])), write(tmp_path / "b", words(BANKS))
    targets = VectorTargets(tiny_tokenizer, sentences=[sentences], words=[marked], max_length=32)
    answer = asked(targets, [0, 1, 2, 3])  # rows 0 and 1 have a sentence vector
    assert len(targets.store) == 4
    assert answer.sentence_rows.tolist() == [0, 1]
    assert sorted(set(answer.word_rows.tolist())) == [0, 1, 2, 3]


# Words


def test_each_word_is_aligned_with_its_own_tokens(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    texts = [*BANKS, "farmers' bankers, trained: crane!"]
    targets = VectorTargets(tiny_tokenizer, words=[write(tmp_path / "w", words(texts))], max_length=32)
    chosen = [4, 1, 0]
    answer = asked(targets, chosen)
    expected = [(row, span.text) for row, number in enumerate(chosen) for span in word_spans(texts[number])]
    assert stands_for(targets, chosen, answer, tiny_tokenizer) == expected
    assert (answer.word_ends - answer.word_starts).max() > 1


def test_word_vectors_are_those_of_the_teacher_less_their_mean(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    rows = words(BANKS)
    targets = VectorTargets(tiny_tokenizer, words=[write(tmp_path / "w", rows, part_rows=3)], max_length=32)
    answer = asked(targets, [2, 0])
    every = np.array([vector_of(row) for row in rows])
    expected = [
        vector_of(row) - every.mean(axis=0) for text in (BANKS[2], BANKS[0]) for row in rows if row.text == text
    ]
    np.testing.assert_allclose(answer.words.numpy(), expected, atol=0.02)  # stored in half precision


def test_residual_is_the_difference_to_the_mean_of_the_form(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    texts = [text.replace("the", "The", 1) for text in BANKS]  # the form of "The" and "the" is one
    rows = words(texts)
    targets = VectorTargets(tiny_tokenizer, words=[write(tmp_path / "w", rows)], max_length=32)
    answer = asked(targets, [0, 1, 2, 3])
    forms = [word_form(row.text[row.start : row.end]) for row in rows]
    the = np.array([vector_of(row) for row, form in zip(rows, forms, strict=True) if form == "the"])
    assert len(the) == COMMON_FORM
    residuals = answer.residuals.numpy()[[form == "the" for form in forms]]
    np.testing.assert_allclose(residuals, the - the.mean(axis=0), atol=0.02)
    assert np.abs(residuals).max() > 0.5


def test_residual_of_a_rare_form_is_zero(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    rows = words(BANKS)  # "the" occurs eight times, every other form four times or once
    targets = VectorTargets(tiny_tokenizer, words=[write(tmp_path / "w", rows)], max_length=32)
    residuals = asked(targets, [0, 1, 2, 3]).residuals.numpy()
    common = np.array([row.text[row.start : row.end] == "the" for row in rows])
    assert common.sum() == COMMON_FORM
    assert (residuals[~common] == 0).all()
    assert (np.abs(residuals[common]).sum(axis=1) > 0).all()


def test_words_of_one_text_in_two_folders_are_all_found(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    rows = words(BANKS[:1])
    folders = [write(tmp_path / "a", rows[:2]), write(tmp_path / "b", rows[2:])]
    targets = VectorTargets(tiny_tokenizer, words=folders, max_length=32)
    found = stands_for(targets, [0], asked(targets, [0]), tiny_tokenizer)
    assert found == [(0, span.text) for span in word_spans(BANKS[0])]


def test_a_text_with_sentence_and_word_vectors_is_one_row(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    sentences, marked = write(tmp_path / "a", whole(BANKS), width=3), write(tmp_path / "b", words(BANKS))
    targets = VectorTargets(tiny_tokenizer, sentences=[sentences], words=[marked], max_length=32)
    answer = asked(targets, [1])
    assert len(targets.store) == 4
    assert (targets.sentence_dimension, targets.word_dimension) == (3, WIDTH)
    assert answer.sentences.shape == (1, 3)
    assert answer.words.shape == (len(word_spans(BANKS[1])), WIDTH)


# What does not fit


def test_long_texts_are_left_out_and_counted(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    texts = [BANKS[0], LONG, BANKS[1], LONG + "again"]
    sentences, marked = write(tmp_path / "s", whole(texts)), write(tmp_path / "w", words(texts))
    targets = VectorTargets(tiny_tokenizer, sentences=[sentences], words=[marked], max_length=20)
    answer = asked(targets, [0, 1])
    assert (len(targets.store), targets.skipped_long) == (2, 2)
    np.testing.assert_array_equal(answer.sentences.numpy(), [vector_of(Row("", text)) for text in BANKS[:2]])
    expected = [(row, span.text) for row in range(2) for span in word_spans(BANKS[row])]
    assert stands_for(targets, [0, 1], answer, tiny_tokenizer) == expected


def test_a_text_of_exactly_max_length_is_kept(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    length = len(tiny_tokenizer.encode_ids(BANKS[:1])[0]) + 2
    folder = write(tmp_path / "a", whole(BANKS[:1]))
    assert VectorTargets(tiny_tokenizer, sentences=[folder], max_length=length).skipped_long == 0
    with pytest.raises(InvalidInputError, match=f"hold no text of at most {length - 1} tokens: nothing to learn from"):
        VectorTargets(tiny_tokenizer, sentences=[folder], max_length=length - 1)


def test_zero_vectors_are_left_out_and_counted(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    silent = (BANKS[1], "near")
    known = [row for row in words(BANKS) if row.text[row.start : row.end] not in silent]
    expected = VectorTargets(tiny_tokenizer, words=[write(tmp_path / "expected", known)], max_length=32)
    sentences = write(tmp_path / "s", whole(BANKS), silent=silent)
    marked = write(tmp_path / "w", words(BANKS), silent=silent)
    targets = VectorTargets(tiny_tokenizer, sentences=[sentences], words=[marked], max_length=32)
    answer = asked(targets, [0, 1, 2])
    assert targets.skipped_vectors == 1 + len(BANKS)
    assert answer.sentence_rows.tolist() == [0, 2]
    assert torch.equal(answer.words, asked(expected, [0, 1, 2]).words)


def test_a_stretch_without_token_is_left_out_and_counted(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    rows = [Row("0", BANKS[0], 0, 3), Row("1", BANKS[0], 3, 4), Row("2", BANKS[0], 4, 8)]  # the second is a space
    targets = VectorTargets(tiny_tokenizer, words=[write(tmp_path / "w", rows)], max_length=32)
    assert stands_for(targets, [0], asked(targets, [0]), tiny_tokenizer) == [(0, "the"), (0, "bank")]
    assert targets.skipped_vectors == 1


def test_folders_of_words_and_of_whole_texts_are_not_taken_for_each_other(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    sentences, marked = write(tmp_path / "s", whole(BANKS)), write(tmp_path / "w", words(BANKS))
    with pytest.raises(InvalidInputError, match="row 0:0 stands for a word: name a folder of whole texts here"):
        VectorTargets(tiny_tokenizer, sentences=[marked], max_length=32)
    with pytest.raises(InvalidInputError, match="row 0 stands for a whole text: name a folder of words here"):
        VectorTargets(tiny_tokenizer, words=[sentences], max_length=32)


def test_folders_of_one_kind_but_two_widths_are_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    folders = [write(tmp_path / "a", whole(BANKS[:1]), width=3), write(tmp_path / "b", whole(BANKS[1:]), width=4)]
    with pytest.raises(InvalidInputError, match=r"are \[3, 4\] wide: vectors of one kind must come from one teacher"):
        VectorTargets(tiny_tokenizer, sentences=folders, max_length=32)


@pytest.mark.parametrize("other", [{"fingerprint": "other"}, {"layer": 5}, {"layer": None}])
def test_folders_of_one_kind_but_two_teachers_or_layers_are_refused(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, other: dict[str, Any]
) -> None:
    second = {"fingerprint": "teacher", "layer": 4, **other}
    folders = [write(tmp_path / "a", words(BANKS[:1]), layer=4), write(tmp_path / "b", words(BANKS[1:]), **second)]
    named = f"fingerprint teacher, layer 4, another of fingerprint {second['fingerprint']}, layer {second['layer']}: "
    with pytest.raises(InvalidInputError, match=f"one folder is of {named}vectors of one kind must come from one"):
        VectorTargets(tiny_tokenizer, words=folders, max_length=32)


def test_the_teacher_of_each_kind_is_named_by_fingerprint_and_layer(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    sentences = write(tmp_path / "s", whole(BANKS), fingerprint="one")
    marked = [
        write(tmp_path / name, words(texts), fingerprint="two", layer=5)
        for name, texts in (("a", BANKS[:2]), ("b", BANKS[2:]))
    ]
    targets = VectorTargets(tiny_tokenizer, sentences=[sentences], words=marked, max_length=32)
    assert targets.teachers == {
        "sentences": {"fingerprint": "one", "layer": None},
        "words": {"fingerprint": "two", "layer": 5},
    }
    assert VectorTargets(tiny_tokenizer, words=marked, max_length=32).teachers["sentences"] == {}


# Settings


def test_settings_name_the_teachers_and_change_with_texts_and_vectors(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    def settings(name: str, texts: list[str], **how: Any) -> dict[str, Any]:
        folder = write(tmp_path / name, whole(texts), **how)
        return VectorTargets(tiny_tokenizer, sentences=[folder], max_length=32).settings

    first = settings("a", BANKS)
    assert first["teachers"]["sentences"] == {"fingerprint": "teacher", "layer": None}
    assert settings("b", BANKS) == first
    assert settings("c", BANKS[:3])["rows_sha256"] != first["rows_sha256"]
    other = settings("d", BANKS, silent=BANKS[:1])
    assert other["vectors_sha256"] != first["vectors_sha256"]


# How vectors are kept and read


@pytest.mark.parametrize(("dtype", "error"), [("float16", 0.05), ("int8", 0.5)])
def test_folders_of_every_number_format_are_read(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, dtype: str, error: float
) -> None:
    def targets(name: str, **how: Any) -> VectorTargets:
        sentences = [write(tmp_path / f"{name}s", whole(BANKS), **how)]
        marked = [write(tmp_path / name, words(BANKS), **how)]
        return VectorTargets(tiny_tokenizer, sentences=sentences, words=marked, max_length=32)

    exact, found = asked(targets("a"), [2, 0]), asked(targets("b", dtype=dtype), [2, 0])
    assert torch.equal(exact.word_forms, found.word_forms)
    for name in ("sentences", "words", "residuals"):
        torch.testing.assert_close(getattr(found, name), getattr(exact, name), atol=error, rtol=0)
    assert not torch.equal(found.words, exact.words)


def test_vectors_are_not_kept_in_memory(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    import tracemalloc

    rows = [replace(row, id=f"{copy}.{row.id}") for copy in range(100) for row in words(BANKS)]
    folder = write(tmp_path / "w", rows, width=1024, part_rows=700)
    size = len(rows) * 1024 * 4
    tracemalloc.start()
    targets = VectorTargets(tiny_tokenizer, words=[folder], max_length=32)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(asked(targets, [1]).words) == 600
    assert kept < size / 10


def test_equal_forms_have_equal_numbers_whatever_their_case(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    texts = ["The bank lent the money", "a bank of the river"]
    targets = VectorTargets(tiny_tokenizer, words=[write(tmp_path / "w", words(texts))], max_length=32)
    found = asked(targets, [0, 1]).word_forms.tolist()
    forms = [word_form(span.text) for text in texts for span in word_spans(text)]
    assert [[one == other for other in found] for one in found] == [[one == other for other in forms] for one in forms]


# Rows of texts


def test_a_text_gets_one_row_however_often_it_comes(
    tiny_tokenizer: SubwordTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(rows: TextRows, texts: list[str]) -> list[int]:
        return rows.add(texts, tiny_tokenizer.encode_ids(texts)).tolist()

    monkeypatch.setattr(module, "_RECENT_TEXTS", 2)
    rows = TextRows(tiny_tokenizer, max_length=20)
    assert add(rows, ["a", "b", "a"]) == [0, 1, 0]
    assert add(rows, [LONG, "b", "", "c"]) == [-1, 1, -1, 2]
    assert add(rows, ["c", LONG, "d", "a", ""]) == [2, -1, 3, 0, -1]
    assert (len(rows), rows.skipped) == (4, 2)
    expected = [tiny_tokenizer.encode_ids([text])[0].tolist() for text in "abcd"]
    assert [rows.store("it holds").row(number)[1:-1].tolist() for number in range(4)] == expected


def test_rows_without_texts_are_refused(tiny_tokenizer: SubwordTokenizer) -> None:
    with pytest.raises(InvalidInputError, match="there is no text of at most 9 tokens: nothing to learn from"):
        TextRows(tiny_tokenizer, max_length=9).store("there is")


# Words in arrays


class SilentTeacher:
    """Satisfies UsageEncoder, and says nothing."""

    name, dimension, fingerprint = "silent", 2, "0"

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        return np.zeros((len(usages), 2), dtype=np.float32)


def test_content_words_are_those_a_vector_folder_lists() -> None:
    texts = ["The bank of the river.", "of it", "", "Don't re-enter: café 24!"]
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    rows, _ = embed_documents(documents, SilentTeacher(), unit="content-word")
    spans = content_words(texts)
    found = zip(spans.owners.tolist(), spans.starts.tolist(), spans.ends.tolist(), strict=True)
    assert [f"{owner}#{start}-{end}" for owner, start, end in found] == [row.id for row in rows]
    assert len(rows) == 4


@settings(deadline=None)
@given(st.lists(st.text("abk' \u00e9\u2019the", max_size=20), max_size=5))
def test_tokens_of_words_are_those_that_overlap_them(tiny_tokenizer: SubwordTokenizer, texts: list[str]) -> None:
    spans = content_words(texts)
    offsets = tiny_tokenizer.encode_batch(texts).offsets
    starts, ends = token_places(spans, offsets)
    for owner, first, last, start, end in zip(spans.owners, spans.starts, spans.ends, starts, ends, strict=True):
        inside = [1 + i for i, (low, high) in enumerate(offsets[owner]) if low < last and high > first]
        assert list(range(start, end)) == inside


def test_form_keys_are_keys_of_their_forms() -> None:
    spans = content_words(["River BANK", "bank banks"])
    assert form_keys(spans).tolist() == text_keys(["river", "bank", "bank", "banks"]).tolist()


@pytest.mark.parametrize("block", [1, 3, 100])
def test_means_of_forms_equal_their_definition(block: int) -> None:
    generator = np.random.default_rng(1)
    forms = generator.integers(0, 6, 60) * 10
    vectors = generator.standard_normal((60, 3)).astype(np.float32)
    vectors[::7] = 0.0
    blocks = (vectors[start : start + block] for start in range(0, 60, block))
    means, says = form_means(forms, blocks, dimension=3)
    known = vectors.any(axis=1)
    counts = {form: int((known & (forms == form)).sum()) for form in np.unique(forms)}
    common = [form for form, count in counts.items() if count >= COMMON_FORM]
    assert 0 < len(common) < 6
    np.testing.assert_array_equal(says, known)
    np.testing.assert_allclose(means.mean, vectors[known].mean(axis=0), atol=1e-6)
    assert means.forms.tolist() == common
    expected = [vectors[known & (forms == form)].mean(axis=0) for form in common]
    np.testing.assert_allclose(means.means, expected, atol=1e-6)
    for vector, form, residual in zip(vectors, forms, means.residuals(forms, vectors), strict=True):
        wanted = vector - expected[common.index(form)] if form in common else np.zeros(3)
        np.testing.assert_allclose(residual, wanted, atol=1e-6)
