from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ctxembed.errors import InvalidInputError
from ctxembed.text import word_form, word_spans
from ctxembed.training.batches import TokenRowBatch, collate
from ctxembed.training.objectives import TeacherBatch
from ctxembed.training.targets import COMMON_FORM, VectorTargets
from ctxembed.types import Document, Vectors
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
) -> VectorFolder:
    """Write what the teacher says; what it is silent about is a zero vector."""
    vectors = np.array([vector_of(row, width) for row in rows], dtype=np.float32)
    vectors[[row.text[row.start : row.end] in silent for row in rows]] = 0.0
    settings = {"model": "teacher", "fingerprint": fingerprint, "unit": "word", "layer": layer}
    with VectorWriter(folder, settings=settings, dimension=width, part_rows=part_rows) as writer:
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


def batch_of(targets: VectorTargets, rows: list[int]) -> TokenRowBatch:
    return collate(targets.store, np.array(rows), pad_id=0)


def stands_for(batch: TokenRowBatch, answer: TeacherBatch, tokenizer: SubwordTokenizer) -> list[tuple[int, str]]:
    """Read back the row of each word and the letters of its tokens."""
    places = zip(answer.word_rows.tolist(), answer.word_starts.tolist(), answer.word_ends.tolist(), strict=True)
    return [
        (row, "".join(tokenizer.token(token).removeprefix("##") for token in batch.ids[row, start:end].tolist()))
        for row, start, end in places
    ]


# Sentences


def test_each_row_gets_the_sentence_vector_of_its_text(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    folders = [write(tmp_path / "a", whole(BANKS[:2])), write(tmp_path / "b", whole(BANKS[2:]))]
    targets = VectorTargets(tiny_tokenizer, sentences=folders, max_length=32)
    assert (len(targets.store), targets.sentence_dimension, targets.word_dimension) == (4, WIDTH, 0)
    answer = targets.lookup(batch_of(targets, [3, 0, 2]))
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
    answer = targets.lookup(batch_of(targets, [0, 1, 2, 3]))  # rows 0 and 1 have a sentence vector
    assert len(targets.store) == 4
    assert answer.sentence_rows.tolist() == [0, 1]
    assert sorted(set(answer.word_rows.tolist())) == [0, 1, 2, 3]


# Words


def test_each_word_is_aligned_with_its_own_tokens(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    texts = [*BANKS, "farmers' bankers, trained: crane!"]
    targets = VectorTargets(tiny_tokenizer, words=[write(tmp_path / "w", words(texts))], max_length=32)
    chosen = [4, 1, 0]
    batch = batch_of(targets, chosen)
    answer = targets.lookup(batch)
    expected = [(row, span.text) for row, number in enumerate(chosen) for span in word_spans(texts[number])]
    assert stands_for(batch, answer, tiny_tokenizer) == expected
    assert (answer.word_ends - answer.word_starts).max() > 1


def test_word_vectors_are_those_of_the_teacher_less_their_mean(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    rows = words(BANKS)
    targets = VectorTargets(tiny_tokenizer, words=[write(tmp_path / "w", rows, part_rows=3)], max_length=32)
    answer = targets.lookup(batch_of(targets, [2, 0]))
    every = np.array([vector_of(row) for row in rows])
    expected = [
        vector_of(row) - every.mean(axis=0) for text in (BANKS[2], BANKS[0]) for row in rows if row.text == text
    ]
    np.testing.assert_allclose(answer.words.numpy(), expected, atol=0.02)  # stored in half precision


def test_residual_is_the_difference_to_the_mean_of_the_form(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    texts = [text.replace("the", "The", 1) for text in BANKS]  # the form of "The" and "the" is one
    rows = words(texts)
    targets = VectorTargets(tiny_tokenizer, words=[write(tmp_path / "w", rows)], max_length=32)
    answer = targets.lookup(batch_of(targets, [0, 1, 2, 3]))
    forms = [word_form(row.text[row.start : row.end]) for row in rows]
    the = np.array([vector_of(row) for row, form in zip(rows, forms, strict=True) if form == "the"])
    assert len(the) == COMMON_FORM
    residuals = answer.residuals.numpy()[[form == "the" for form in forms]]
    np.testing.assert_allclose(residuals, the - the.mean(axis=0), atol=0.02)
    assert np.abs(residuals).max() > 0.5


def test_residual_of_a_rare_form_is_zero(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    rows = words(BANKS)  # "the" occurs eight times, every other form four times or once
    targets = VectorTargets(tiny_tokenizer, words=[write(tmp_path / "w", rows)], max_length=32)
    residuals = targets.lookup(batch_of(targets, [0, 1, 2, 3])).residuals.numpy()
    common = np.array([row.text[row.start : row.end] == "the" for row in rows])
    assert common.sum() == COMMON_FORM
    assert (residuals[~common] == 0).all()
    assert (np.abs(residuals[common]).sum(axis=1) > 0).all()


def test_words_of_one_text_in_two_folders_are_all_found(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    rows = words(BANKS[:1])
    folders = [write(tmp_path / "a", rows[:2]), write(tmp_path / "b", rows[2:])]
    targets = VectorTargets(tiny_tokenizer, words=folders, max_length=32)
    batch = batch_of(targets, [0])
    found = stands_for(batch, targets.lookup(batch), tiny_tokenizer)
    assert found == [(0, span.text) for span in word_spans(BANKS[0])]


def test_a_text_with_sentence_and_word_vectors_is_one_row(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    sentences, marked = write(tmp_path / "a", whole(BANKS), width=3), write(tmp_path / "b", words(BANKS))
    targets = VectorTargets(tiny_tokenizer, sentences=[sentences], words=[marked], max_length=32)
    answer = targets.lookup(batch_of(targets, [1]))
    assert len(targets.store) == 4
    assert (targets.sentence_dimension, targets.word_dimension) == (3, WIDTH)
    assert answer.sentences.shape == (1, 3)
    assert answer.words.shape == (len(word_spans(BANKS[1])), WIDTH)


# What does not fit


def test_long_texts_are_left_out_and_counted(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    texts = [BANKS[0], LONG, BANKS[1], LONG + "again"]
    sentences, marked = write(tmp_path / "s", whole(texts)), write(tmp_path / "w", words(texts))
    targets = VectorTargets(tiny_tokenizer, sentences=[sentences], words=[marked], max_length=20)
    batch = batch_of(targets, [0, 1])
    answer = targets.lookup(batch)
    assert (len(targets.store), targets.skipped_long) == (2, 2)
    np.testing.assert_array_equal(answer.sentences.numpy(), [vector_of(Row("", text)) for text in BANKS[:2]])
    expected = [(row, span.text) for row in range(2) for span in word_spans(BANKS[row])]
    assert stands_for(batch, answer, tiny_tokenizer) == expected


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
    answer = targets.lookup(batch_of(targets, [0, 1, 2]))
    assert targets.skipped_vectors == 1 + len(BANKS)
    assert answer.sentence_rows.tolist() == [0, 2]
    assert torch.equal(answer.words, expected.lookup(batch_of(expected, [0, 1, 2])).words)


def test_a_stretch_without_token_is_left_out_and_counted(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    rows = [Row("0", BANKS[0], 0, 3), Row("1", BANKS[0], 3, 4), Row("2", BANKS[0], 4, 8)]  # the second is a space
    targets = VectorTargets(tiny_tokenizer, words=[write(tmp_path / "w", rows)], max_length=32)
    batch = batch_of(targets, [0])
    assert stands_for(batch, targets.lookup(batch), tiny_tokenizer) == [(0, "the"), (0, "bank")]
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
