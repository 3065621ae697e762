from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.training.objectives.base import Objective, encode_sentences
from ctxembed.training.objectives.contrastive import (
    Contrastive,
    ContrastiveConfig,
    SimCSE,
    SimCSEConfig,
    info_nce,
    same_texts,
)

from .contrastive_cases import PAD, PAIRS, Pair, gradients, nce_by_hand, objective, pair_rows, rows_in, whole_batch
from .tiny_models import WIDTH, checkpoint

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

# InfoNCE


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_info_nce_equals_its_definition(temperature: float) -> None:
    generator = torch.Generator().manual_seed(1)
    anchors, candidates = torch.randn(4, 6, generator=generator), torch.randn(9, 6, generator=generator)
    own = torch.tensor([3, 0, 8, 5])
    same = torch.rand(4, 9, generator=generator) < 0.3
    losses, right = info_nce(anchors, candidates, own, temperature=temperature, same=same)
    one, all_ = anchors.double().numpy(), candidates.double().numpy()
    expected = [
        nce_by_hand(
            one[row],
            all_[own[row]],
            [all_[column] for column in range(9) if column != own[row] and not same[row, column]],
            temperature,
        )
        for row in range(4)
    ]
    assert same.any()
    assert losses.tolist() == pytest.approx([loss for loss, _ in expected], rel=1e-4)
    assert right.tolist() == [hit for _, hit in expected]


def test_info_nce_without_negatives_is_zero_and_can_be_descended() -> None:
    anchors = torch.randn(3, 4, requires_grad=True)
    losses, right = info_nce(
        anchors, torch.randn(3, 4), torch.arange(3), temperature=0.05, same=torch.ones(3, 3, dtype=torch.bool)
    )
    losses.sum().backward()
    assert losses.tolist() == [0.0] * 3
    assert right.all()
    assert anchors.grad is not None
    assert anchors.grad.isfinite().all()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(0, 4), st.integers(0, 2**31), st.floats(0.1, 50.0))
def test_info_nce_asks_for_directions_only_and_not_for_order(rows: int, others: int, seed: int, factor: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchors, candidates = torch.randn(rows, 5, generator=generator), torch.randn(rows + others, 5, generator=generator)
    losses, _ = info_nce(anchors, candidates, torch.arange(rows), temperature=0.1)
    order = torch.randperm(rows + others, generator=generator)
    place = torch.argsort(order)[:rows]
    again, _ = info_nce(anchors * factor, candidates[order] / factor, place, temperature=0.1)
    torch.testing.assert_close(losses, again, atol=1e-4, rtol=1e-4)


def test_info_nce_of_no_anchors_is_empty_and_reaches_the_candidates() -> None:
    candidates = torch.randn(3, 4, requires_grad=True)
    losses, right = info_nce(torch.zeros(0, 4), candidates, torch.zeros(0, dtype=torch.int64), temperature=0.05)
    losses.sum().backward()
    assert (losses.shape, right.shape) == ((0,), (0,))
    assert candidates.grad is not None


def test_vectors_that_are_all_equal_find_their_own_by_chance() -> None:
    losses, right = info_nce(torch.ones(8, 4), torch.ones(8, 4), torch.arange(8), temperature=0.05)
    assert losses.tolist() == pytest.approx([math.log(8)] * 8)
    assert right.sum() <= 1


def test_info_nce_is_computed_in_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(1)
    anchors, candidates = torch.randn(6, 32, generator=generator), torch.randn(6, 32, generator=generator)
    expected, _ = info_nce(anchors, candidates, torch.arange(6), temperature=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = info_nce(anchors, candidates, torch.arange(6), temperature=0.05)
    assert torch.equal(found, expected)


def test_equal_texts_of_several_pairs_are_no_negatives() -> None:
    keys, partners = torch.tensor([1, 2, 3, 1, 5]), torch.tensor([7, 8, 7, 9, 2])
    others = torch.tensor([7, 6])
    found = same_texts(keys, partners, others, torch.tensor([0, 1]))
    # To 0: its own; the equal partner of 2; what belongs to the equal text 3; the other that is its partner.
    # To 1: its own; the partner of 4, which is its own text.
    assert found.int().tolist() == [[1, 0, 1, 1, 0, 1, 0], [0, 1, 0, 0, 1, 0, 0]]


# Pairs


def loss_by_hand(
    model: Checkpoint, pairs: list[Pair], *, symmetric: bool, width: int = WIDTH, temperature: float = 0.05
) -> tuple[float, float]:
    """The loss and the accuracy of a batch of all pairs: text by text, in double precision."""

    def vector(row: list[int]) -> NDArray[Any]:
        with torch.no_grad():
            found = encode_sentences(model, torch.tensor([row]), torch.tensor([len(row)]))
        return found[0, :width].double().numpy()

    losses, hits = [], []
    hard = [row for _, _, negatives in pairs for row in negatives]
    for anchor, positive, _ in pairs:
        negatives = [p for a, p, _ in pairs if a != anchor and p not in (anchor, positive)]
        negatives += [row for row in hard if row not in (anchor, positive)]
        loss, hit = nce_by_hand(vector(anchor), vector(positive), [vector(row) for row in negatives], temperature)
        if symmetric:
            wrong = [a for a, p, _ in pairs if p != positive and a not in (anchor, positive)]
            back, _ = nce_by_hand(vector(positive), vector(anchor), [vector(row) for row in wrong], temperature)
            loss = (loss + back) / 2
        losses.append(loss)
        hits.append(hit)
    return float(np.mean(losses)), float(np.mean(hits))


@pytest.mark.parametrize("symmetric", [True, False])
def test_loss_of_pairs_equals_its_definition(tiny_tokenizer: SubwordTokenizer, symmetric: bool) -> None:
    model, contrastive = checkpoint(tiny_tokenizer), objective(symmetric=symmetric)
    loss = contrastive(model, whole_batch(contrastive))
    expected, accuracy = loss_by_hand(model, PAIRS, symmetric=symmetric)
    assert loss.value.item() == pytest.approx(expected, rel=1e-4)
    assert loss.metrics == pytest.approx({"contrastive": expected, "contrastive_accuracy": accuracy}, rel=1e-4)
    assert loss.count == 5
    assert expected > 0.5


def test_hard_negatives_raise_the_loss_and_can_be_left_out(tiny_tokenizer: SubwordTokenizer) -> None:
    model = checkpoint(tiny_tokenizer)
    losses = []
    for number in (0, 4):
        contrastive = objective(num_negatives=number, symmetric=False)
        losses.append(contrastive(model, whole_batch(contrastive)).value.item())
    without = [(anchor, positive, []) for anchor, positive, _ in PAIRS]
    assert losses[0] == pytest.approx(loss_by_hand(model, without, symmetric=False)[0], rel=1e-4)
    assert losses[0] < losses[1]


def test_nested_widths_are_averaged_with_the_whole_width(tiny_tokenizer: SubwordTokenizer) -> None:
    model = checkpoint(tiny_tokenizer)
    expected = [loss_by_hand(model, PAIRS, symmetric=True, width=width) for width in (4, 8, WIDTH)]
    for widths in ((8, 4), (4, WIDTH, 8)):
        contrastive = objective(matryoshka=widths)
        loss = contrastive(model, whole_batch(contrastive))
        assert loss.value.item() == pytest.approx(np.mean([value for value, _ in expected]), rel=1e-4)
        assert loss.metrics["contrastive_accuracy"] == pytest.approx(expected[-1][1])


@pytest.mark.parametrize("piece_tokens", [1, 7, 1000])
def test_pieces_have_the_gradient_of_the_whole(tiny_tokenizer: SubwordTokenizer, piece_tokens: int) -> None:
    found = []
    for pieces in (None, piece_tokens):
        model, contrastive = checkpoint(tiny_tokenizer), objective(piece_tokens=pieces)
        loss = contrastive(model, whole_batch(contrastive))
        loss.value.backward()
        found.append((loss.value.item(), gradients(model)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    assert max(gradient.abs().max().item() for gradient in found[0][1]) > 0.01
    for whole, parts in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


# Batches


def test_a_batch_holds_the_pairs_asked_for(tiny_tokenizer: SubwordTokenizer) -> None:
    contrastive = objective()
    batch = contrastive.prepare(np.array([4, 1]), seed=[1])
    assert rows_in(batch.anchors) == [[15, 16], [11, 12, 13]]
    assert rows_in(batch.positives) == [[11, 12, 13], [33, 34]]
    assert rows_in(batch.negatives) == [[56], [50, 51], [30, 31, 32]]
    assert all(
        (row[length:] == PAD).all() for row, length in zip(batch.anchors.ids, batch.anchors.lengths, strict=True)
    )
    assert batch.anchors.keys[1] == batch.positives.keys[0] != batch.positives.keys[1]
    assert batch.num_tokens == 5 + 5 + 6
    assert batch.to(torch.device("meta")).negatives.ids.is_meta


def test_costs_are_the_tokens_of_each_item() -> None:
    contrastive = objective()
    alone = [contrastive.prepare(np.array([item]), seed=[1]).num_tokens for item in range(5)]
    assert contrastive.costs.tolist() == alone
    assert objective(num_negatives=1).costs.tolist() == [5, 5 + 3, 4 + 4, 4, 5 + 1]  # 2.5 on average, rounded up
    assert objective(num_negatives=0).costs.tolist() == [5, 5, 4, 4, 5]


def test_equal_seeds_draw_equal_negatives_whatever_their_companions() -> None:
    pairs: list[Pair] = [([9, item], [30, item], [[50 + n, item] for n in range(10)]) for item in range(20)]
    contrastive = objective(pairs, num_negatives=3)

    def drawn(items: list[int], seed: list[int]) -> dict[int, list[list[int]]]:
        rows = rows_in(contrastive.prepare(np.array(items), seed=seed).negatives)
        return {item: [row for row in rows if row[1] == item] for item in items}

    one, same, other = drawn(list(range(20)), [1, 7]), drawn(list(range(20)), [1, 7]), drawn(list(range(20)), [1, 8])
    assert one == same != other
    assert all(len({tuple(row) for row in rows}) == 3 for rows in one.values())
    assert len({tuple(row[0] for row in rows) for rows in one.values()}) > 1
    some = drawn([3, 11], [1, 7])
    assert some == {item: one[item] for item in some}


def test_settings_are_json_values_that_follow_the_data() -> None:
    import json

    one, other = objective(matryoshka=(8, 4)), objective(PAIRS[:4], matryoshka=(8, 4))
    assert json.loads(json.dumps(one.settings)) == one.settings
    assert one.settings["pairs_sha256"] == pair_rows(PAIRS).sha256 != other.settings["pairs_sha256"]
    assert {**other.settings, "pairs_sha256": ""} == {**one.settings, "pairs_sha256": ""}
    assert one.settings["temperature"] == 0.05


def test_objectives_have_no_parameters_of_their_own() -> None:
    assert all(objective.compares_rows for objective in (Contrastive, SimCSE))
    assert issubclass(Contrastive, Objective)
    assert list(objective().parameters()) == []


# What is refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.0}, "temperature = 0.0: must be above 0"),
        ({"temperature": math.nan}, "temperature = nan: must be above 0"),
        ({"num_negatives": -1}, "num_negatives = -1: must be at least 0"),
        ({"matryoshka": (8, 0)}, r"matryoshka = \(8, 0\): must be different widths of at least 1"),
        ({"matryoshka": (8, 8)}, r"matryoshka = \(8, 8\): must be different widths"),
        ({"piece_tokens": 0}, "piece_tokens = 0: must be at least 1, or left out"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ContrastiveConfig(**values)


@pytest.mark.parametrize("dropout", [0.0, 1.0, -0.5])
def test_an_impossible_dropout_is_refused(dropout: float) -> None:
    with pytest.raises(InvalidInputError, match=f"dropout = {dropout}: must be between 0 and 1, or leave it out"):
        SimCSEConfig(dropout=dropout)


def test_a_width_that_the_model_lacks_is_refused(tiny_tokenizer: SubwordTokenizer) -> None:
    contrastive = objective(matryoshka=(8, 32))
    with pytest.raises(
        InvalidInputError, match=r"matryoshka = \(8, 32\): the model's vectors have 16 values, leave out \[32\]"
    ):
        contrastive(checkpoint(tiny_tokenizer), whole_batch(contrastive))


@pytest.mark.parametrize(("pairs", "number"), [(PAIRS[:1], 4), (PAIRS[1:2], 0)])
def test_a_pair_that_nothing_can_be_told_from_is_refused(pairs: list[Pair], number: int) -> None:
    with pytest.raises(InvalidInputError, match=r"1 pairs and \d hard negatives: .* give at least 2"):
        objective(pairs, num_negatives=number)


def test_one_pair_with_a_hard_negative_is_learned_from(tiny_tokenizer: SubwordTokenizer) -> None:
    contrastive, model = objective(PAIRS[1:2]), checkpoint(tiny_tokenizer)
    loss = contrastive(model, whole_batch(contrastive))
    assert loss.value.item() == pytest.approx(loss_by_hand(model, PAIRS[1:2], symmetric=True)[0], rel=1e-4)
    assert loss.value.item() > 0.01
