from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctxembed.errors import InvalidInputError
from ctxembed.training.batches import (
    TokenRows,
    chunk_texts,
    collate,
    micro_batches,
    pad_rows,
    padded_width,
    plan_epoch,
    split_rows,
    with_specials,
)

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=300).map(lambda values: np.array(values, dtype=np.int64))
SEEDS = st.integers(0, 2**31)
MANY = np.random.default_rng(0).integers(2, 40, size=500)


def rows_of(*lengths: int) -> list[NDArray[np.int32]]:
    return [np.full(length, 10 + number, dtype=np.int32) for number, length in enumerate(lengths)]


def plan(lengths: NDArray[np.int64], *, batch_tokens: int = 120, seed: int = 1, epoch: int = 0) -> list[list[int]]:
    rows = np.arange(len(lengths))
    batches = plan_epoch(lengths, rows, batch_tokens=batch_tokens, seed=seed, epoch=epoch)
    return [batch.tolist() for batch in batches]


# The plan of an epoch


@settings(deadline=None)
@given(LENGTHS, st.integers(2, 200), SEEDS, st.integers(0, 5))
def test_every_row_comes_exactly_once_an_epoch(
    lengths: NDArray[np.int64], batch_tokens: int, seed: int, epoch: int
) -> None:
    batches = plan(lengths, batch_tokens=batch_tokens, seed=seed, epoch=epoch)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(lengths)))


@settings(deadline=None)
@given(LENGTHS, st.integers(2, 200), SEEDS)
def test_no_batch_exceeds_the_token_budget_unless_one_row_does(
    lengths: NDArray[np.int64], batch_tokens: int, seed: int
) -> None:
    for batch in plan(lengths, batch_tokens=batch_tokens, seed=seed):
        assert batch
        assert len(batch) == 1 or len(batch) * padded_width(lengths[batch]).max() <= batch_tokens


@settings(deadline=None)
@given(st.lists(st.integers(0, 49), min_size=1, unique=True), SEEDS)
def test_only_the_rows_given_are_dealt(rows: list[int], seed: int) -> None:
    batches = plan_epoch(MANY, np.array(rows), batch_tokens=80, seed=seed, epoch=0)
    assert sorted(np.concatenate(batches).tolist()) == sorted(rows)


def test_same_seed_and_epoch_give_the_same_plan() -> None:
    assert plan(MANY, seed=7, epoch=2) == plan(MANY, seed=7, epoch=2)


@pytest.mark.parametrize("other", [{"seed": 8, "epoch": 2}, {"seed": 7, "epoch": 3}])
def test_another_seed_or_epoch_gives_another_plan(other: dict[str, int]) -> None:
    assert plan(MANY, **other) != plan(MANY, seed=7, epoch=2)


def test_rows_of_a_batch_are_of_like_length() -> None:
    batches = plan(MANY, batch_tokens=400)
    padded = sum(len(batch) * MANY[batch].max() for batch in batches)
    assert padded < 1.05 * MANY.sum()
    in_memory = sum(len(batch) * padded_width(MANY[batch]).max() for batch in batches)
    assert in_memory < 1.25 * MANY.sum()  # widths are rounded up to 8, 3.5 tokens of 21 on average


@settings(deadline=None)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=150), SEEDS)
def test_a_width_comes_with_one_number_of_rows_but_for_the_last_of_that_width(lengths: list[int], seed: int) -> None:
    # Few enough rows for one block: sorted by length, the rows of a width follow each other, and the next may be wider.
    widths = [padded_width(np.array(lengths))[batch].max() for batch in plan(np.array(lengths), seed=seed)]
    sizes = [len(batch) for batch in plan(np.array(lengths), seed=seed)]
    for width in set(widths):
        rows = sorted(size for size, each in zip(sizes, widths, strict=True) if each == width)
        assert rows[1:] == [120 // width] * (len(rows) - 1)
        assert 0 < rows[0] <= 120 // width


@pytest.mark.parametrize("lengths", [[8], [3, 7, 8], [9, 16], [1, 17, 40, 39]])
def test_a_padded_batch_is_as_wide_as_the_next_multiple_of_eight(lengths: list[int]) -> None:
    ids, sizes = pad_rows(rows_of(*lengths), pad_id=99)
    assert ids.shape == (len(lengths), -(-max(lengths) // 8) * 8)
    assert sizes.tolist() == lengths
    for number, (row, length) in enumerate(zip(ids.tolist(), lengths, strict=True)):
        assert row == [10 + number] * length + [99] * (len(row) - length)


def test_no_rows_make_an_empty_batch() -> None:
    ids, lengths = pad_rows([], pad_id=99)
    assert ids.shape == (0, 0)
    assert lengths.shape == (0,)


def test_batches_are_not_in_order_of_length() -> None:
    longest = [int(MANY[batch].max()) for batch in plan(MANY)]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


# Batches for ever


def first(number: int, batches: Iterator[NDArray[np.int64]]) -> list[list[int]]:
    return [batch.tolist() for batch in itertools.islice(batches, number)]


def test_micro_batches_go_through_epoch_after_epoch() -> None:
    epochs = [plan(MANY, epoch=epoch) for epoch in range(3)]
    expected = [*epochs[0], *epochs[1], *epochs[2]]
    assert first(len(expected), micro_batches(MANY, np.arange(500), batch_tokens=120, seed=1)) == expected


@pytest.mark.parametrize("skip", [0, 1, 100, 300])
def test_skipped_micro_batches_are_those_at_the_beginning(skip: int) -> None:
    rows = np.arange(500)
    whole = first(skip + 20, micro_batches(MANY, rows, batch_tokens=120, seed=1))
    assert first(20, micro_batches(MANY, rows, batch_tokens=120, seed=1, skip=skip)) == whole[skip:]


def test_skipping_exactly_one_epoch_begins_with_the_next() -> None:
    skip = len(plan(MANY))
    assert first(5, micro_batches(MANY, np.arange(500), batch_tokens=120, seed=1, skip=skip)) == plan(MANY, epoch=1)[:5]


# Held-out rows


@settings(deadline=None)
@given(st.integers(2, 3000), SEEDS)
def test_training_and_held_out_rows_are_all_rows_and_share_none(num_rows: int, seed: int) -> None:
    training, held_out = split_rows(num_rows, fraction=0.01, most=10, seed=seed)
    assert sorted([*training, *held_out]) == list(range(num_rows))
    assert len(held_out) == min(10, max(1, round(num_rows * 0.01)))


def test_one_row_alone_is_trained_on_and_held_out() -> None:
    training, held_out = split_rows(1, fraction=0.01, most=10, seed=1)
    assert training.tolist() == held_out.tolist() == [0]


def test_the_split_follows_from_the_seed() -> None:
    one, same, other = (split_rows(500, fraction=0.1, most=100, seed=seed)[1].tolist() for seed in (1, 1, 2))
    assert one == same
    assert one != other


# Rows and batches


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=20))
def test_rows_laid_end_to_end_can_be_read_back(lengths: list[int]) -> None:
    rows = rows_of(*lengths)
    store = TokenRows.from_lists(rows)
    assert len(store) == len(rows)
    assert store.lengths.tolist() == lengths
    read = [store.ids[store.starts[n] : store.starts[n + 1]].tolist() for n in range(len(rows))]
    assert read == [row.tolist() for row in rows]


def test_a_batch_holds_the_rows_asked_for_in_that_order() -> None:
    store = TokenRows.from_lists(rows_of(2, 9, 4, 3))
    batch = collate(store, np.array([3, 0, 2]), pad_id=99)
    assert batch.ids.tolist() == [[13] * 3 + [99] * 5, [10] * 2 + [99] * 6, [12] * 4 + [99] * 4]
    assert batch.lengths.tolist() == [3, 2, 4]
    assert batch.rows.tolist() == [3, 0, 2]
    assert batch.num_tokens == 9
    assert str(batch.ids.dtype) == str(batch.lengths.dtype) == "torch.int64"


# On disk


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 9), max_size=20))
def test_rows_written_and_opened_are_those_given(tmp_path: Path, lengths: list[int]) -> None:
    rows = rows_of(*lengths)
    written = TokenRows.write(tmp_path / "rows", iter(rows))
    for store in (written, TokenRows.open(tmp_path / "rows")):
        assert [store.row(number).tolist() for number in range(len(store))] == [row.tolist() for row in rows]
        assert store.lengths.tolist() == lengths
        assert (store.ids.dtype, store.starts.dtype) == (np.int32, np.int64)
        assert store.sha256 == TokenRows.from_lists(rows).sha256


def test_rows_on_disk_are_mapped_and_not_read(tmp_path: Path) -> None:
    store = TokenRows.write(tmp_path / "rows", rows_of(3, 4))
    assert isinstance(store.ids, np.memmap)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.ids", "rows.starts.npy"]


def test_rows_whose_writing_was_interrupted_are_not_taken_for_whole(tmp_path: Path) -> None:
    def interrupted() -> Iterator[NDArray[np.int32]]:
        yield from rows_of(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TokenRows.write(tmp_path / "rows", interrupted())
    assert not TokenRows.is_written(tmp_path / "rows")
    assert list(tmp_path.iterdir()) == []
    TokenRows.write(tmp_path / "rows", rows_of(3))
    assert TokenRows.is_written(tmp_path / "rows")


def test_the_hash_of_rows_knows_ids_and_bounds() -> None:
    ids = np.arange(6, dtype=np.int32)
    hashes = {
        TokenRows.from_lists(rows).sha256
        for rows in ([ids], [ids[:2], ids[2:]], [ids[:3], ids[3:]], [ids[::-1]], [ids[:5]], [])
    }
    assert len(hashes) == 6


def test_texts_chunked_to_disk_are_those_chunked_in_memory(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    texts = ["The bank lent money to the old farmer.", "", "a river", "spring " * 20]
    in_memory = chunk_texts(texts, tiny_tokenizer, max_length=9)
    on_disk = chunk_texts(texts, tiny_tokenizer, max_length=9, path=tmp_path / "rows")
    assert len(on_disk) > 4
    assert on_disk.ids.tolist() == in_memory.ids.tolist()
    assert on_disk.starts.tolist() == in_memory.starts.tolist()


# From texts to rows


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text("abr iverbank.", max_size=60), max_size=8), st.integers(3, 12))
def test_chunking_loses_no_token(tiny_tokenizer: SubwordTokenizer, texts: list[str], max_length: int) -> None:
    texts = [*texts, "The bank lent money to the old farmer."]
    store = chunk_texts(iter(texts), tiny_tokenizer, max_length=max_length)
    rows = [store.ids[store.starts[n] : store.starts[n + 1]] for n in range(len(store))]
    assert all(3 <= len(row) <= max_length for row in rows)
    assert {(int(row[0]), int(row[-1])) for row in rows} == {(tiny_tokenizer.cls_id, tiny_tokenizer.sep_id)}
    inner = np.concatenate([row[1:-1] for row in rows])
    assert inner.tolist() == np.concatenate(tiny_tokenizer.encode_ids(texts)).tolist()


def test_only_a_text_longer_than_a_row_is_split(tiny_tokenizer: SubwordTokenizer) -> None:
    text = "the bank of the river"
    length = len(tiny_tokenizer.encode_ids([text])[0])
    assert len(chunk_texts([text, text], tiny_tokenizer, max_length=length + 2)) == 2
    assert len(chunk_texts([text, text], tiny_tokenizer, max_length=length + 1)) == 4


def test_many_texts_are_read_in_several_batches(tiny_tokenizer: SubwordTokenizer) -> None:
    store = chunk_texts(itertools.repeat("the bank", 4100), tiny_tokenizer, max_length=8)
    assert len(store) == 4100


@pytest.mark.parametrize("texts", [[], [""], ["", " \n"]])
def test_texts_without_a_token_are_refused(tiny_tokenizer: SubwordTokenizer, texts: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="the corpus holds no text to train on: check the input"):
        chunk_texts(texts, tiny_tokenizer, max_length=8)


def test_special_tokens_stand_around_a_row(tiny_tokenizer: SubwordTokenizer) -> None:
    row = with_specials(np.array([7, 8], dtype=np.int32), tiny_tokenizer)
    assert row.tolist() == [tiny_tokenizer.cls_id, 7, 8, tiny_tokenizer.sep_id]
    assert row.dtype == np.int32
