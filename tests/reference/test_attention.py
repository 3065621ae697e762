"""Attention and positions against numpy in float64 written out by hand, and against torch's own layers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ctxembed.config import EncoderConfig
from ctxembed.errors import InvalidInputError
from ctxembed.model.attention import (
    MultiHeadAttention,
    padding_mask,
    rotary_angles,
    rotate,
    scaled_dot_product_attention,
)
from ctxembed.model.embeddings import TokenEmbedding, sinusoidal_positions

BATCH, QUERIES, KEYS, WIDTH, HEADS = 3, 5, 7, 24, 4
LENGTHS = torch.tensor([7, 1, 4])
WORDS = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1]])  # THE, CAT, SAT


def by_hand(
    query: NDArray[np.float64], key: NDArray[np.float64], value: NDArray[np.float64], mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Equation 1 for one (T, K), (S, K), (S, K), one number at a time."""
    weights = np.zeros((len(query), len(key)))
    for i in range(len(query)):
        seen = [j for j in range(len(key)) if mask is None or mask[i, j]]
        scores = {j: sum(a * b for a, b in zip(query[i], key[j], strict=True)) / math.sqrt(len(key[j])) for j in seen}
        total = sum(math.exp(score) for score in scores.values())
        for j, score in scores.items():
            weights[i, j] = math.exp(score) / total
    mixed = np.array(
        [sum(weight * row for weight, row in zip(weights[i], value, strict=True)) for i in range(len(query))]
    )
    return mixed, weights


def triple(seed: int, *lead: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((*lead, QUERIES, 6), (*lead, KEYS, 6), (*lead, KEYS, 6))
    query, key, value = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    return query, key, value


def random_mask(seed: int, *lead: int) -> Tensor:
    mask = torch.rand((*lead, QUERIES, KEYS), generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[..., 0] = True  # every query sees something
    return mask


# Scaled dot-product attention


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_attention_equals_the_formula_by_hand(seed: int, masked: bool) -> None:
    query, key, value = triple(seed)
    mask = random_mask(seed) if masked else None
    mixed, weights = scaled_dot_product_attention(query, key, value, mask=mask)
    arrays = (tensor.numpy() for tensor in (query, key, value))
    expected, expected_weights = by_hand(*arrays, None if mask is None else mask.numpy())
    np.testing.assert_allclose(weights.numpy(), expected_weights, atol=1e-12)
    np.testing.assert_allclose(mixed.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_attention_equals_torch(seed: int, masked: bool) -> None:
    query, key, value = triple(seed, BATCH, HEADS)
    mask = random_mask(seed, BATCH, 1) if masked else None
    mixed, _ = scaled_dot_product_attention(query, key, value, mask=mask)
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(mixed, expected, atol=1e-12, rtol=0)


def test_gradients_equal_those_of_torch() -> None:
    inputs = [tensor.requires_grad_() for tensor in triple(5, BATCH)]
    mask = random_mask(5, BATCH)
    goal = torch.randn(BATCH, QUERIES, 6, dtype=torch.float64)
    own = torch.autograd.grad((scaled_dot_product_attention(*inputs, mask=mask)[0] * goal).sum(), inputs)
    reference = functional.scaled_dot_product_attention(*inputs, attn_mask=mask)
    expected = torch.autograd.grad((reference * goal).sum(), inputs)
    for ours, theirs in zip(own, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_each_row_of_weights_sums_to_one(seed: int) -> None:
    _, weights = scaled_dot_product_attention(*triple(seed, BATCH), mask=random_mask(seed, BATCH))
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(BATCH, QUERIES, dtype=torch.float64), atol=1e-12, rtol=0)


def test_raw_scores_of_the_worked_example() -> None:
    raw = torch.tensor([[2.0, 0, 2], [0, 2, 2], [2, 2, 4]])
    assert torch.equal(WORDS @ WORDS.T, raw)
    mixed, weights = scaled_dot_product_attention(WORDS, WORDS, WORDS)
    expected = (raw / 2).exp() / (raw / 2).exp().sum(dim=1, keepdim=True)  # the root of four is two
    torch.testing.assert_close(weights, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed, expected @ WORDS, atol=1e-6, rtol=0)


def test_scores_six_and_four_share_attention_88_to_12() -> None:
    _, weights = scaled_dot_product_attention(torch.ones(1, 1), torch.tensor([[6.0], [4.0]]), torch.eye(2))
    assert [round(weight, 2) for weight in weights[0].tolist()] == [0.88, 0.12]


def test_padding_gets_no_weight_when_all_real_scores_are_very_negative() -> None:
    query, value = torch.ones(1, 2, 4), torch.full((1, 3, 4), 1e6)
    key = torch.full((1, 3, 4), -1e4)
    key[:, 2], value[:, :2] = 0.0, 1.0  # the padded key alone would score 0, far above the real ones
    mixed, weights = scaled_dot_product_attention(query, key, value, mask=padding_mask(torch.tensor([2]), 3)[:, 0])
    assert torch.equal(weights[..., 2], torch.zeros(1, 2))
    assert torch.equal(mixed, torch.ones(1, 2, 4))


def test_dropout_keeps_the_mean_of_the_weights() -> None:
    query, key, value = torch.zeros(1, 2), torch.zeros(4000, 2), torch.zeros(4000, 2)
    torch.manual_seed(0)
    _, weights = scaled_dot_product_attention(query, key, value, dropout=0.25)
    assert 0.2 < (weights == 0).float().mean() < 0.3
    assert weights.sum().item() == pytest.approx(1.0, abs=0.05)


# Multi-head attention


def paired(seed: int, *, training: bool) -> tuple[MultiHeadAttention, nn.MultiheadAttention]:
    """Our layer and torch's with the same random weights, no dropout."""
    torch.manual_seed(seed)
    own = MultiHeadAttention(WIDTH, HEADS).double()
    reference = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.normal_(std=0.4)
        parts = (own.query, own.key, own.value)
        reference.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        reference.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    reference.out_proj.load_state_dict(own.output.state_dict())
    return own.train(training), reference.train(training)


def tokens(seed: int, length: int) -> Tensor:
    return torch.randn(BATCH, length, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_self_attention_equals_torch(fused: bool, training: bool, padded: bool) -> None:
    own, reference = paired(1, training=training)
    own.fused = fused
    hidden = tokens(2, KEYS)
    mask = padding_mask(LENGTHS, KEYS) if padded else None
    found, weights = own(hidden, mask=mask)
    expected, _ = reference(hidden, hidden, hidden, key_padding_mask=None if mask is None else ~mask[:, 0, 0])
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert weights is None


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_cross_attention_equals_torch(fused: bool, training: bool, padded: bool) -> None:
    own, reference = paired(3, training=training)
    own.fused = fused
    hidden, context = tokens(4, QUERIES), tokens(5, KEYS)
    mask = padding_mask(LENGTHS, KEYS) if padded else None
    found, _ = own(hidden, context=context, mask=mask)
    expected, _ = reference(hidden, context, context, key_padding_mask=None if mask is None else ~mask[:, 0, 0])
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("fused", [None, False, True])
def test_weights_asked_for_equal_those_of_torch(fused: bool | None) -> None:
    own, reference = paired(6, training=False)
    own.fused = fused
    hidden, mask = tokens(7, KEYS), padding_mask(LENGTHS, KEYS)
    found, weights = own(hidden, mask=mask, need_weights=True)
    expected, expected_weights = reference(
        hidden, hidden, hidden, key_padding_mask=~mask[:, 0, 0], average_attn_weights=False
    )
    assert weights is not None
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(weights, expected_weights, atol=1e-12, rtol=0)


@pytest.mark.parametrize("training", [False, True])
def test_fused_path_equals_the_written_out_path_with_rotary_positions(training: bool) -> None:
    own, _ = paired(8, training=training)
    hidden, mask, angles = tokens(9, KEYS), padding_mask(LENGTHS, KEYS), rotary_angles(KEYS, WIDTH // HEADS)
    own.fused = False
    written_out, _ = own(hidden, mask=mask, angles=angles)
    own.fused = True
    fused, _ = own(hidden, mask=mask, angles=angles)
    torch.testing.assert_close(fused, written_out, atol=1e-12, rtol=0)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_what_stands_in_the_padding_changes_nothing(training: bool, fused: bool) -> None:
    own, _ = paired(10, training=training)
    own.fused = fused
    hidden, mask = tokens(11, KEYS), padding_mask(LENGTHS, KEYS)
    before, _ = own(hidden, mask=mask)
    for row, length in enumerate(LENGTHS.tolist()):
        hidden[row, length:] = 1e4
    after, _ = own(hidden, mask=mask)
    for row, length in enumerate(LENGTHS.tolist()):
        assert torch.equal(after[row, :length], before[row, :length])


def test_dropout_acts_in_training_and_not_in_evaluation() -> None:
    layer = MultiHeadAttention(WIDTH, HEADS, dropout=0.5).double()
    hidden = tokens(12, KEYS)
    assert not torch.equal(layer.train()(hidden)[0], layer(hidden)[0])
    assert torch.equal(layer.eval()(hidden)[0], layer(hidden)[0])


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="hidden_size = 10 is not a multiple of num_heads = 4"):
        MultiHeadAttention(10, 4)


# Positions


def test_padding_mask_lets_a_query_see_the_real_keys_only() -> None:
    mask = padding_mask(LENGTHS, KEYS)
    assert mask.shape == (BATCH, 1, 1, KEYS)
    assert mask.sum(dim=-1).flatten().tolist() == LENGTHS.tolist()
    assert mask[2, 0, 0].tolist() == [True] * 4 + [False] * 3


def test_rotation_equals_multiplication_by_a_unit_complex_number() -> None:
    width, length = 8, 6
    vectors = torch.randn(length, width, dtype=torch.float64)
    turned = rotate(vectors, rotary_angles(length, width)).numpy()
    for position in range(length):
        for pair in range(width // 2):
            angle = position * 10_000 ** (-2 * pair / width)
            number = complex(vectors[position, pair], vectors[position, pair + width // 2])
            expected = number * complex(math.cos(angle), math.sin(angle))
            assert turned[position, pair] == pytest.approx(expected.real, abs=1e-6)
            assert turned[position, pair + width // 2] == pytest.approx(expected.imag, abs=1e-6)


def test_rotated_dot_products_depend_on_the_distance_only() -> None:
    length, width = 12, 8
    angles = rotary_angles(length, width)
    query, key = (torch.randn(width, dtype=torch.float64).expand(length, width) for _ in range(2))
    scores = rotate(query, angles) @ rotate(key, angles).T
    for distance in range(-length + 1, length):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=0)
    assert scores[0].std() > 0.1  # and they do depend on it


def test_rotation_keeps_lengths_and_leaves_the_first_position_alone() -> None:
    vectors = torch.randn(BATCH, HEADS, 9, 6, dtype=torch.float64)
    turned = rotate(vectors, rotary_angles(9, 6))
    torch.testing.assert_close(turned.norm(dim=-1), vectors.norm(dim=-1), atol=1e-6, rtol=0)
    assert torch.equal(turned[:, :, 0], vectors[:, :, 0])
    assert not torch.allclose(turned[:, :, 1], vectors[:, :, 1])


@pytest.mark.parametrize("width", [6, 7])
def test_sinusoids_equal_the_formula(width: int) -> None:
    table = sinusoidal_positions(11, width)
    assert table.shape == (11, width)
    for position in range(11):
        for column in range(width):
            angle = position / 10_000 ** (2 * (column // 2) / width)
            expected = math.cos(angle) if column % 2 else math.sin(angle)
            assert table[position, column].item() == pytest.approx(expected, abs=1e-6)


def test_token_vectors_are_scaled_before_sinusoids_are_added() -> None:
    embedding = TokenEmbedding(EncoderConfig(vocab_size=9, hidden_size=16, positions="sinusoidal", dropout=0.0)).eval()
    ids = torch.tensor([[5, 2, 5]])
    summed = math.sqrt(16) * embedding.tokens.weight[ids[0]] + sinusoidal_positions(3, 16)  # Vaswani et al., 3.4, 3.5
    torch.testing.assert_close(embedding(ids)[0], torch.nn.functional.layer_norm(summed, (16,), eps=1e-12))
