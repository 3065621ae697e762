from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctxembed.config import DecoderConfig, EncoderConfig, PoolingConfig
from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.decoder import TransformerDecoder
from ctxembed.model.encoder import TransformerEncoder
from ctxembed.training.batches import TokenRows, chunk_texts
from ctxembed.training.objectives.denoise import DenoiseBatch, DenoiseConfig, Denoising, delete_words

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

TEXTS = (
    "The bank lent money to the old farmer.",
    "A crane.",
    "She sat on the bank of the river and read.",
    "The spring was cold, the summer was warm.",
    "bank",
)
ALL = np.arange(len(TEXTS))
FIRST, LAST = 2, 3  # the special tokens of the rows of these tests
word_starts = st.lists(st.booleans(), min_size=9, max_size=9).map(np.array)
row_ids = st.lists(st.integers(0, 8), max_size=14).map(lambda ids: np.array([FIRST, *ids, LAST], dtype=np.int32))


@pytest.fixture
def objective(tiny_tokenizer: SubwordTokenizer) -> Denoising:
    return Denoising(chunk_texts(TEXTS, tiny_tokenizer, max_length=24), tiny_tokenizer)


@pytest.fixture
def model(tiny_tokenizer: SubwordTokenizer) -> Checkpoint:
    torch.manual_seed(1)
    shape = EncoderConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        intermediate_size=24,
        max_length=24,
        dropout=0.0,
    )
    encoder, decoder = TransformerEncoder(shape), TransformerDecoder(shape, DecoderConfig(num_layers=2))
    with torch.no_grad():
        for parameter in (*encoder.parameters(), *decoder.parameters()):
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return Checkpoint(name="tiny", encoder=encoder, decoder=decoder, tokenizer=tiny_tokenizer, pooling=PoolingConfig())


def generator(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def parameters(model: Checkpoint) -> list[torch.nn.Parameter]:
    assert model.decoder is not None
    return [*model.encoder.parameters(), *model.decoder.parameters()]


def gradient(model: Checkpoint, value: torch.Tensor) -> torch.Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(value, parameters(model))])


# Deleting words


def test_share_of_deleted_words_is_that_of_the_config() -> None:
    row = np.concatenate(([FIRST], np.full(20_000, 5), [LAST])).astype(np.int32)
    for fraction in (0.2, 0.6, 0.9):
        left = delete_words(row, np.ones(9, dtype=np.bool_), fraction=fraction, generator=generator())
        assert (len(left) - 2) / 20_000 == pytest.approx(1 - fraction, abs=0.02)


@settings(deadline=None)
@given(row_ids, word_starts, st.floats(0, 0.999), st.integers(0, 2**31))
def test_what_is_left_are_whole_words_in_order(
    row: NDArray[np.int32], starts: NDArray[np.bool_], fraction: float, seed: int
) -> None:
    words: list[list[int]] = []
    for token_id in row[1:-1].tolist():
        if starts[token_id] or not words:
            words.append([])
        words[-1].append(token_id)
    numbered = np.arange(len(row), dtype=np.int32)  # every token its own: places can be followed
    left = delete_words(numbered, starts[row], fraction=fraction, generator=generator(seed)).tolist()
    bounds = np.cumsum([1, *map(len, words)]).tolist()
    stays = [bounds[word] in left for word in range(len(words))]
    kept = [place for word, whole in enumerate(stays) if whole for place in range(bounds[word], bounds[word + 1])]
    assert left == [0, *kept, len(row) - 1]
    assert any(stays) or not words


def test_nothing_is_deleted_with_a_fraction_of_zero() -> None:
    row = np.array([FIRST, 5, 6, 5, LAST], dtype=np.int32)
    assert delete_words(row, np.arange(9) != 6, fraction=0.0, generator=generator()).tolist() == row.tolist()


def test_one_word_stays_whichever_it_is() -> None:
    row = np.array([FIRST, 4, 5, 6, 7, LAST], dtype=np.int32)  # 6 continues the word of 5
    left = {
        tuple(delete_words(row, np.arange(9) != 6, fraction=0.999, generator=generator(seed)).tolist())
        for seed in range(60)
    }
    assert left >= {(FIRST, 4, LAST), (FIRST, 5, 6, LAST), (FIRST, 7, LAST)}
    assert min(map(len, left)) == 3


def test_a_row_that_begins_inside_a_word_has_that_as_its_first_word() -> None:
    row = np.array([FIRST, 6, 6, 5, LAST], dtype=np.int32)
    left = {
        tuple(delete_words(row, np.arange(9) != 6, fraction=0.5, generator=generator(seed)).tolist())
        for seed in range(60)
    }
    assert left == {(FIRST, 6, 6, LAST), (FIRST, 5, LAST), (FIRST, 6, 6, 5, LAST)}


def test_a_row_without_words_stays() -> None:
    row = np.array([FIRST, LAST], dtype=np.int32)
    assert delete_words(row, np.ones(9, dtype=np.bool_), fraction=0.6, generator=generator()).tolist() == [FIRST, LAST]


# Batches


def test_batch_holds_what_is_left_and_the_whole_rows(objective: Denoising, tiny_tokenizer: SubwordTokenizer) -> None:
    batch = objective.prepare(ALL, seed=[3, 1])
    for row in range(len(TEXTS)):
        [whole] = tiny_tokenizer.encode_ids([TEXTS[row]])
        target = batch.target_ids[row, : batch.target_lengths[row]].tolist()
        assert target == [tiny_tokenizer.cls_id, *whole.tolist(), tiny_tokenizer.sep_id]
        left = batch.ids[row, : batch.lengths[row]].tolist()
        assert (left[0], left[-1]) == (tiny_tokenizer.cls_id, tiny_tokenizer.sep_id)
        rest = iter(target)
        assert all(token_id in rest for token_id in left)  # a subsequence
        assert (batch.ids[row, batch.lengths[row] :] == tiny_tokenizer.pad_id).all()
        assert (batch.target_ids[row, batch.target_lengths[row] :] == tiny_tokenizer.pad_id).all()
    assert batch.num_tokens == int(batch.lengths.sum()) < int(batch.target_lengths.sum())


def test_continuations_go_with_their_word(objective: Denoising, tiny_tokenizer: SubwordTokenizer) -> None:
    starts = tiny_tokenizer.word_starts()
    continuing = 0
    for step in range(30):
        batch = objective.prepare(ALL, seed=[1, step])
        for row in range(len(TEXTS)):
            left = batch.ids[row, 1 : batch.lengths[row] - 1].tolist()
            assert starts[left[0]]
            continuing += sum(not starts[token_id] for token_id in left)
    assert continuing > 0


def test_equal_seeds_give_equal_batches_and_others_others(objective: Denoising) -> None:
    one, same, other = (objective.prepare(ALL, seed=seed) for seed in ([3, 1], [3, 1], [3, 2]))
    assert torch.equal(one.ids, same.ids)
    assert torch.equal(one.lengths, same.lengths)
    assert one.ids.shape != other.ids.shape or not torch.equal(one.ids, other.ids)


def test_what_is_deleted_does_not_depend_on_the_company(objective: Denoising) -> None:
    together = objective.prepare(ALL, seed=[3, 1])
    for item in ALL:
        alone = objective.prepare(ALL[item : item + 1], seed=[3, 1])
        left = together.ids[item, : together.lengths[item]]
        assert alone.ids[0, : alone.lengths[0]].tolist() == left.tolist()


def test_batch_moves_with_all_its_tensors(objective: Denoising) -> None:
    moved = objective.prepare(ALL, seed=[1]).to(torch.device("meta"))
    assert {moved.ids.device.type, moved.lengths.device.type} == {"meta"}
    assert {moved.target_ids.device.type, moved.target_lengths.device.type} == {"meta"}


def test_costs_are_the_lengths_of_the_whole_rows(objective: Denoising) -> None:
    assert objective.costs.tolist() == objective.prepare(ALL, seed=[1]).target_lengths.tolist()
    assert (objective.kind, objective.compares_rows) == ("denoise", False)


def test_settings_tell_config_and_rows_apart(objective: Denoising, tiny_tokenizer: SubwordTokenizer) -> None:
    rows = objective.rows
    same = Denoising(rows, tiny_tokenizer, config=DenoiseConfig())
    other_config = Denoising(rows, tiny_tokenizer, config=DenoiseConfig(delete_fraction=0.5))
    other_rows = Denoising(TokenRows(rows.ids[::-1], rows.starts), tiny_tokenizer)
    other_cuts = Denoising(TokenRows(rows.ids, np.sort(rows.starts - rows.starts % 2)), tiny_tokenizer)
    assert objective.settings == same.settings
    assert objective.settings["delete_fraction"] == 0.6
    different = [objective.settings, other_config.settings, other_rows.settings, other_cuts.settings]
    assert all(one != other for number, one in enumerate(different) for other in different[:number])


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_an_impossible_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(InvalidInputError, match=rf"delete_fraction = {fraction}: must be in \[0, 1\)"):
        DenoiseConfig(delete_fraction=fraction)


def test_no_rows_are_refused(tiny_tokenizer: SubwordTokenizer) -> None:
    with pytest.raises(InvalidInputError, match="no rows to learn from: give at least one sentence"):
        Denoising(TokenRows.from_lists([]), tiny_tokenizer)


# The loss


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_loss_equals_every_token_scored_by_hand(objective: Denoising, model: Checkpoint, pooling: str) -> None:
    model = replace(model, pooling=PoolingConfig(sentence=pooling))  # type: ignore[arg-type]
    batch = objective.prepare(ALL, seed=[3, 1])
    table = model.encoder.embedding.tokens.weight
    terms, hits = [], []
    for row in range(len(TEXTS)):
        left = batch.ids[row : row + 1, : batch.lengths[row]]
        hidden = model.encoder(left).last  # (1, T, D)
        vector = hidden[:, 0] if pooling == "cls" else hidden.mean(dim=1)
        memory = vector / vector.norm() * 16**0.5
        whole = batch.target_ids[row, : batch.target_lengths[row]].tolist()
        for place in range(1, len(whole)):  # one prefix after the other
            assert model.decoder is not None
            prefix = torch.tensor([whole[:place]])
            last = model.decoder(prefix, memory[:, None], embedding=model.encoder.embedding).hidden[0, -1]
            scores = (last @ table.T + model.decoder.bias).log_softmax(dim=-1)
            terms.append(-scores[whole[place]])
            hits.append(int(scores.argmax()) == whole[place])
    loss = objective(model, batch)
    assert loss.count == len(terms) == int(batch.target_lengths.sum()) - len(TEXTS)
    torch.testing.assert_close(loss.value, torch.stack(terms).mean(), atol=1e-5, rtol=0)
    assert loss.metrics == {
        "denoise": pytest.approx(loss.value.item()),
        "denoise_accuracy": pytest.approx(np.mean(hits)),
    }


def test_what_stands_in_the_padding_changes_nothing(objective: Denoising, model: Checkpoint) -> None:
    batch = objective.prepare(ALL, seed=[3, 1])
    ids, target_ids = batch.ids.clone(), batch.target_ids.clone()
    for row in range(len(TEXTS)):
        ids[row, batch.lengths[row] :] = 9
        target_ids[row, batch.target_lengths[row] :] = 9
    other = DenoiseBatch(ids, batch.lengths, target_ids, batch.target_lengths)
    torch.testing.assert_close(objective(model, other).value, objective(model, batch).value, atol=1e-6, rtol=0)


def test_pieces_weighed_by_their_count_have_the_gradient_of_the_whole(objective: Denoising, model: Checkpoint) -> None:
    whole = objective(model, objective.prepare(ALL, seed=[3, 1]))
    pieces = [objective(model, objective.prepare(part, seed=[3, 1])) for part in (ALL[:2], ALL[2:])]
    assert sum(piece.count for piece in pieces) == whole.count
    weighed = sum(gradient(model, piece.value) * piece.count / whole.count for piece in pieces)
    torch.testing.assert_close(weighed, gradient(model, whole.value), atol=1e-6, rtol=1e-4)


def test_the_decoder_learns_of_the_sentence_through_its_vector_only(objective: Denoising, model: Checkpoint) -> None:
    batch = objective.prepare(ALL, seed=[3, 1])
    assert model.decoder is not None
    seen: list[tuple[int, ...]] = []
    handle = model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[1].shape)))
    objective(model, batch)
    handle.remove()
    assert seen == [(len(TEXTS), 1, 16)]


def test_every_parameter_has_a_gradient(objective: Denoising, model: Checkpoint) -> None:
    objective(model, objective.prepare(ALL, seed=[3, 1])).value.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in parameters(model))
    assert list(objective.parameters()) == []


@pytest.mark.parametrize("how", ["model", "autocast"])
def test_bfloat16_gives_nearly_the_same_loss_in_float32(objective: Denoising, model: Checkpoint, how: str) -> None:
    batch = objective.prepare(ALL, seed=[3, 1])
    exact = objective(model, batch).value
    if how == "model":
        model.encoder.bfloat16()
        assert model.decoder is not None
        model.decoder.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        loss = objective(model, batch)
    assert loss.value.dtype == torch.float32
    assert loss.value.item() == pytest.approx(exact.item(), rel=0.03)


def test_a_model_without_decoder_is_refused(objective: Denoising, model: Checkpoint) -> None:
    with pytest.raises(InvalidInputError, match="the model tiny has no decoder: give it one, denoising trains it"):
        objective(replace(model, decoder=None), objective.prepare(ALL, seed=[1]))


def test_a_row_longer_than_the_model_is_refused(tiny_tokenizer: SubwordTokenizer, model: Checkpoint) -> None:
    rows = chunk_texts(["the bank " * 20], tiny_tokenizer, max_length=40)
    objective = Denoising(rows, tiny_tokenizer, config=DenoiseConfig(delete_fraction=0.9))
    with pytest.raises(InvalidInputError, match="the limit is max_length = 24"):
        objective(model, objective.prepare(np.array([0]), seed=[1]))
