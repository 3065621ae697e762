"""Masked-language modelling: what is hidden, what stands in its place, and the loss at hidden positions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional

from ctxembed.config import EncoderConfig, PoolingConfig
from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.encoder import MaskedWordHead, TransformerEncoder
from ctxembed.training.batches import TokenRows, with_specials
from ctxembed.training.objectives.mlm import MaskedBatch, MaskedLanguageModelling, MaskingConfig

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

SEED = (1, 2, 3)
FIRST_ORDINARY = 5


def random_rows(tokenizer: SubwordTokenizer, lengths: list[int]) -> TokenRows:
    """Rows of random ordinary tokens between special ones; lengths count the ordinary ones."""
    generator = np.random.default_rng(9)
    rows = [generator.integers(FIRST_ORDINARY, len(tokenizer), length).astype(np.int32) for length in lengths]
    return TokenRows.from_lists([with_specials(row, tokenizer) for row in rows])


def objective(
    tokenizer: SubwordTokenizer, lengths: list[int], config: MaskingConfig | None = None
) -> MaskedLanguageModelling:
    return MaskedLanguageModelling(random_rows(tokenizer, lengths), tokenizer, config=config)


def tiny(tokenizer: SubwordTokenizer, *, head: bool = True, num_layers: int = 1) -> Checkpoint:
    shape = EncoderConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_layers=num_layers, num_heads=2, intermediate_size=24, dropout=0.0
    )
    torch.manual_seed(1)
    return Checkpoint(
        name="tiny",
        encoder=TransformerEncoder(shape),
        head=MaskedWordHead(shape) if head else None,
        tokenizer=tokenizer,
        pooling=PoolingConfig(),
    )


def hidden_of(batch: MaskedBatch) -> list[list[int]]:
    """The hidden positions of each row, without the padding of their number."""
    width = batch.ids.size(1)
    rows: list[list[int]] = [[] for _ in batch.ids]
    for position in batch.positions[: len(batch.targets)].tolist():
        rows[position // width].append(position % width)
    return rows


def everything(task: MaskedLanguageModelling) -> NDArray[np.int64]:
    return np.arange(len(task.costs))


# What is hidden


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=6),
    st.floats(0.01, 0.99),
    st.integers(0, 2**31),
    st.booleans(),
)
def test_only_ordinary_tokens_are_hidden_and_at_least_one_of_a_row_that_has_any(
    tiny_tokenizer: SubwordTokenizer, lengths: list[int], fraction: float, seed: int, whole_words: bool
) -> None:
    task = objective(tiny_tokenizer, lengths, MaskingConfig(mask_fraction=fraction, whole_words=whole_words))
    batch = task.prepare(everything(task), seed=[seed])
    originals = random_rows(tiny_tokenizer, lengths)
    targets = batch.targets.tolist()
    for number, (length, hidden) in enumerate(zip(lengths, hidden_of(batch), strict=True)):
        assert all(1 <= position <= length for position in hidden)
        assert bool(hidden) == bool(length)
        row = originals.row(number).tolist()
        assert [targets.pop(0) for _ in hidden] == [row[position] for position in hidden]
        seen = batch.ids[number].tolist()
        untouched = set(range(len(row))) - set(hidden)
        assert all(seen[position] == row[position] for position in untouched)
        assert seen[len(row) :] == [tiny_tokenizer.pad_id] * (len(seen) - len(row))
    assert targets == []
    assert batch.lengths.tolist() == [length + 2 for length in lengths]
    assert batch.num_tokens == sum(lengths) + 2 * len(lengths)


def test_shares_of_hidden_kept_and_random_tokens_are_those_of_the_config(tiny_tokenizer: SubwordTokenizer) -> None:
    config = MaskingConfig(mask_fraction=0.3, keep_fraction=0.2, random_fraction=0.15)
    task = objective(tiny_tokenizer, [100] * 600, config)
    batch = task.prepare(everything(task), seed=SEED)
    now, before = batch.ids.flatten()[batch.positions[: len(batch.targets)]], batch.targets
    size = len(tiny_tokenizer)
    assert len(before) / (600 * 100) == pytest.approx(0.3, abs=0.01)
    # A random token is the mask or the old token once in a vocabulary each.
    assert (now == tiny_tokenizer.mask_id).float().mean().item() == pytest.approx(0.65 + 0.15 / size, abs=0.015)
    assert (now == before).float().mean().item() == pytest.approx(0.2 + 0.15 / size, abs=0.015)


def test_random_tokens_come_from_the_whole_vocabulary(tiny_tokenizer: SubwordTokenizer) -> None:
    config = MaskingConfig(mask_fraction=0.9, keep_fraction=0.0, random_fraction=1.0)
    task = objective(tiny_tokenizer, [100] * 300, config)
    batch = task.prepare(everything(task), seed=SEED)
    seen = batch.ids.flatten()[batch.positions[: len(batch.targets)]]
    assert set(seen.tolist()) == set(range(len(tiny_tokenizer)))


def test_the_number_of_positions_is_a_multiple_of_64(tiny_tokenizer: SubwordTokenizer) -> None:
    counts = set()
    for length in (1, 60, 90, 200, 400):
        task = objective(tiny_tokenizer, [length], MaskingConfig(mask_fraction=0.99))
        batch = task.prepare(everything(task), seed=SEED)
        assert len(batch.positions) == -(-len(batch.targets) // 64) * 64
        counts.add(len(batch.positions))
    assert len(counts) >= 4


# Chance


@pytest.mark.parametrize("whole_words", [False, True])
def test_the_mask_of_an_item_does_not_depend_on_its_companions(
    tiny_tokenizer: SubwordTokenizer, whole_words: bool
) -> None:
    task = objective(tiny_tokenizer, [30, 7, 25, 12, 19], MaskingConfig(mask_fraction=0.4, whole_words=whole_words))
    together = task.prepare(np.array([0, 1, 2, 3, 4]), seed=SEED)
    for items in ([3], [4, 3], [3, 1, 0]):
        batch = task.prepare(np.array(items), seed=SEED)
        place = items.index(3)
        width = batch.ids.size(1)
        assert batch.ids[place, :14].tolist() == together.ids[3, :14].tolist()
        assert hidden_of(batch)[place] == hidden_of(together)[3]
        assert width >= 14


def test_masks_follow_from_the_seed(tiny_tokenizer: SubwordTokenizer) -> None:
    task = objective(tiny_tokenizer, [30, 30], MaskingConfig(mask_fraction=0.5))
    one, same, other = (task.prepare(everything(task), seed=seed).ids for seed in ((1, 5), (1, 5), (1, 6)))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_equal_rows_are_not_hidden_alike(tiny_tokenizer: SubwordTokenizer) -> None:
    row = with_specials(np.arange(FIRST_ORDINARY, 45, dtype=np.int32), tiny_tokenizer)
    task = MaskedLanguageModelling(TokenRows.from_lists([row, row]), tiny_tokenizer)
    one, other = hidden_of(task.prepare(everything(task), seed=SEED))
    assert one != other


def test_the_rows_are_not_changed_in_place(tiny_tokenizer: SubwordTokenizer) -> None:
    store = random_rows(tiny_tokenizer, [20, 20])
    before = store.ids.copy()
    store.ids.setflags(write=False)
    task = MaskedLanguageModelling(store, tiny_tokenizer, config=MaskingConfig(mask_fraction=0.9))
    batch = task.prepare(everything(task), seed=SEED)
    assert len(batch.targets) > 20
    assert np.array_equal(store.ids, before)


# Whole words


def test_all_pieces_of_a_word_are_hidden_or_none(tiny_tokenizer: SubwordTokenizer) -> None:
    text = "the unbelievable crane lifted interwoven trains near the embankment of riverbeds"
    ids = tiny_tokenizer.encode_ids([text])[0]
    starts = tiny_tokenizer.word_starts()[ids]
    words = np.cumsum(starts) - 1
    assert 3 < starts.sum() < 0.7 * len(ids)  # most words have several pieces
    store = TokenRows.from_lists([with_specials(ids, tiny_tokenizer)] * 300)
    task = MaskedLanguageModelling(store, tiny_tokenizer, config=MaskingConfig(mask_fraction=0.3, whole_words=True))
    counts = np.zeros(words[-1] + 1)
    for hidden in hidden_of(task.prepare(everything(task), seed=SEED)):
        pieces = set(words[np.array(hidden) - 1].tolist())
        assert len(hidden) == sum(int((words == word).sum()) for word in pieces)
        counts[sorted(pieces)] += 1
    assert counts.min() > 0
    assert counts.sum() / (300 * len(counts)) == pytest.approx(0.3, abs=0.05)  # a share of words, not of pieces


def test_pieces_alone_are_hidden_apart_without_whole_words(tiny_tokenizer: SubwordTokenizer) -> None:
    ids = tiny_tokenizer.encode_ids(["unbelievable"])[0]
    assert len(ids) > 3
    store = TokenRows.from_lists([with_specials(ids, tiny_tokenizer)] * 50)
    task = MaskedLanguageModelling(store, tiny_tokenizer, config=MaskingConfig(mask_fraction=0.3))
    sizes = {len(hidden) for hidden in hidden_of(task.prepare(everything(task), seed=SEED))}
    assert sizes != {len(ids)}


def test_a_row_that_begins_inside_a_word_is_hidden_whole(tiny_tokenizer: SubwordTokenizer) -> None:
    ids = tiny_tokenizer.encode_ids(["unbelievable"])[0][1:]  # a long text was cut there
    assert not tiny_tokenizer.word_starts()[ids].any()
    store = TokenRows.from_lists([with_specials(ids, tiny_tokenizer)])
    task = MaskedLanguageModelling(store, tiny_tokenizer, config=MaskingConfig(whole_words=True))
    assert hidden_of(task.prepare(everything(task), seed=SEED)) == [list(range(1, len(ids) + 1))]


# What is dropped on the way


def kept_of(batch: MaskedBatch) -> list[list[int]]:
    """The places of each row that go through all layers, without padding."""
    assert batch.kept is not None
    return [row[:count] for row, count in zip(batch.kept.places.tolist(), batch.kept.lengths.tolist(), strict=True)]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=6),
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.99),
    st.integers(0, 2**31),
)
def test_hidden_tokens_are_kept_and_of_the_others_as_many_as_asked(
    tiny_tokenizer: SubwordTokenizer, lengths: list[int], hidden: float, dropped: float, seed: int
) -> None:
    task = objective(tiny_tokenizer, lengths, MaskingConfig(mask_fraction=hidden, drop_fraction=dropped))
    batch = task.prepare(everything(task), seed=(seed,))
    assert batch.kept is not None
    assert batch.kept.places.size(1) <= batch.ids.size(1)
    assert all(len(set(row)) == len(row) for row in batch.kept.places.tolist())
    for length, places, chosen in zip(lengths, kept_of(batch), hidden_of(batch), strict=True):
        least = max((1 - dropped) * (length + 2), len(chosen))
        assert min(least, length + 2) <= len(places) < least + 4
        assert places == sorted(places)
        assert set(chosen) <= set(places) <= set(range(length + 2))


def test_which_tokens_are_kept_does_not_depend_on_companions(tiny_tokenizer: SubwordTokenizer) -> None:
    task = objective(tiny_tokenizer, [30, 7, 25, 12, 19], MaskingConfig(drop_fraction=0.5))
    together = kept_of(task.prepare(everything(task), seed=SEED))
    apart = [kept_of(task.prepare(np.array([item]), seed=SEED))[0] for item in range(5)]
    assert together == apart
    assert together != kept_of(task.prepare(everything(task), seed=(4,)))


def test_what_is_hidden_does_not_depend_on_what_is_dropped(tiny_tokenizer: SubwordTokenizer) -> None:
    batches = []
    for fraction in (0.0, 0.7):
        task = objective(tiny_tokenizer, [30, 7], MaskingConfig(drop_fraction=fraction))
        batches.append(task.prepare(everything(task), seed=SEED))
    assert batches[0].kept is None
    assert torch.equal(batches[0].ids, batches[1].ids)
    assert torch.equal(batches[0].positions, batches[1].positions)


def test_tokens_are_dropped_in_training_alone(tiny_tokenizer: SubwordTokenizer) -> None:
    model = tiny(tiny_tokenizer, num_layers=3)
    dropping, whole = (objective(tiny_tokenizer, [30, 14], MaskingConfig(drop_fraction=drop)) for drop in (0.5, 0.0))
    batch = dropping.prepare(everything(dropping), seed=SEED)
    losses = [
        task.train(mode)(model, batch if task is dropping else replace(batch, kept=None)).value.item()
        for task, mode in ((dropping, True), (dropping, False), (whole, True))
    ]
    assert losses[1] == losses[2]
    assert abs(losses[0] - losses[1]) > 1e-6


# The loss


def test_the_loss_is_the_cross_entropy_of_the_head_at_hidden_positions(tiny_tokenizer: SubwordTokenizer) -> None:
    model, task = tiny(tiny_tokenizer), objective(tiny_tokenizer, [8, 5, 3, 14], MaskingConfig(mask_fraction=0.5))
    assert model.head is not None
    batch = task.prepare(everything(task), seed=SEED)
    parameters = [*model.encoder.parameters(), *model.head.parameters()]
    loss = task(model, batch)
    gradients = torch.autograd.grad(loss.value, parameters)
    places = batch.positions[: len(batch.targets)]
    states = model.encoder(batch.ids, batch.lengths).last.flatten(0, 1)[places]
    scores = model.head(states, model.encoder.embedding.tokens.weight)
    expected = functional.cross_entropy(scores, batch.targets)
    accuracy = (scores.argmax(dim=1) == batch.targets).float().mean().item()
    assert loss.value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.metrics == pytest.approx({"mlm": expected.item(), "mlm_accuracy": accuracy}, rel=1e-5)
    assert loss.count == len(batch.targets) > 5
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_pieces_of_a_batch_weighed_by_count_have_the_gradient_of_the_whole(tiny_tokenizer: SubwordTokenizer) -> None:
    model, task = tiny(tiny_tokenizer), objective(tiny_tokenizer, [8, 5, 3, 14], MaskingConfig(mask_fraction=0.5))
    parameters = list(model.encoder.parameters())
    whole = task(model, task.prepare(everything(task), seed=SEED))
    pieces = [task(model, task.prepare(np.array(items), seed=SEED)) for items in ([0], [1, 2], [3])]
    assert sum(piece.count for piece in pieces) == whole.count
    together = sum(piece.value * (piece.count / whole.count) for piece in pieces)
    assert isinstance(together, torch.Tensor)
    assert together.item() == pytest.approx(whole.value.item(), rel=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(together, parameters), torch.autograd.grad(whole.value, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_an_untrained_model_guesses_by_chance(tiny_tokenizer: SubwordTokenizer) -> None:
    task = objective(tiny_tokenizer, [20] * 10)
    loss = task(tiny(tiny_tokenizer), task.prepare(everything(task), seed=SEED))
    assert loss.value.item() == pytest.approx(math.log(len(tiny_tokenizer)), abs=0.3)


def test_a_batch_without_ordinary_tokens_gives_zero_that_can_be_descended(tiny_tokenizer: SubwordTokenizer) -> None:
    model, task = tiny(tiny_tokenizer), objective(tiny_tokenizer, [0, 0])
    loss = task(model, task.prepare(everything(task), seed=SEED))
    loss.value.backward()
    assert (loss.value.item(), loss.count, loss.metrics) == (0.0, 0, {})
    assert model.encoder.embedding.tokens.weight.grad is not None
    assert not model.encoder.embedding.tokens.weight.grad.any()


def test_a_model_without_a_head_is_refused(tiny_tokenizer: SubwordTokenizer) -> None:
    task = objective(tiny_tokenizer, [5])
    with pytest.raises(InvalidInputError, match="the model tiny has no masked-word head: start from one made by"):
        task(tiny(tiny_tokenizer, head=False), task.prepare(everything(task), seed=SEED))


# Settings


def test_settings_hold_the_config_and_the_hash_of_the_rows(tiny_tokenizer: SubwordTokenizer) -> None:
    one, other = (objective(tiny_tokenizer, lengths, MaskingConfig(mask_fraction=0.4)) for lengths in ([5], [6]))
    assert one.settings["mask_fraction"] == 0.4
    assert one.settings["rows_sha256"] == random_rows(tiny_tokenizer, [5]).sha256 != other.settings["rows_sha256"]
    assert one.costs.tolist() == [7]
    assert (one.kind, one.compares_rows) == ("mlm", False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mask_fraction": 0.0}, "mask_fraction = 0.0: must be between 0 and 1"),
        ({"mask_fraction": 1.0}, "mask_fraction = 1.0: must be between 0 and 1"),
        ({"mask_fraction": math.nan}, "mask_fraction = nan: must be between 0 and 1"),
        ({"keep_fraction": -0.1}, "must not be negative nor sum to more than 1"),
        ({"keep_fraction": 0.6, "random_fraction": 0.5}, "must not be negative nor sum to more than 1"),
        ({"drop_fraction": 1.0}, "drop_fraction = 1.0: must be at least 0 and below 1"),
        ({"drop_fraction": -0.1}, "drop_fraction = -0.1: must be at least 0 and below 1"),
        ({"drop_fraction": math.nan}, "drop_fraction = nan: must be at least 0 and below 1"),
    ],
)
def test_impossible_shares_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        MaskingConfig(**values)
