"""The fast attention and the fast loss compute what is written out to be read, gradients included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ctxembed.model import fused
from ctxembed.model.attention import (
    MultiHeadAttention,
    causal_mask,
    padding_mask,
    rotary_angles,
    rotate,
    scaled_dot_product_attention,
)
from ctxembed.model.fused import fused_self_attention, tied_cross_entropy

BATCH, LENGTH, HEADS, WIDTH = 3, 7, 2, 6
LENGTHS = torch.tensor([7, 4, 1])
MASKS: dict[str, Tensor | None] = {
    "none": None,
    "padding": padding_mask(LENGTHS, LENGTH),
    "causal": causal_mask(LENGTH),
    "padding and causal": padding_mask(LENGTHS, LENGTH) & causal_mask(LENGTH),
}


def seeded(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def angles_of(positions: str) -> tuple[Tensor, Tensor] | None:
    # Angles of rotary positions are float32: both paths must round them alike.
    if positions == "rotary of each row":
        orders = [torch.randperm(20, generator=torch.Generator().manual_seed(row)) for row in range(BATCH)]
        return angles_of_rows(torch.stack(orders)[:, :LENGTH], WIDTH)
    return rotary_angles(LENGTH, WIDTH) if positions == "rotary" else None


def angles_of_rows(places: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Angles of rows whose tokens stand at places (B, T) of their own, (B, 1, T, K/2) each."""
    cosine, sine = rotary_angles(int(places.max()) + 1, width)
    return cosine[places][:, None], sine[places][:, None]


def written_out(projected: Tensor, mask: Tensor | None, angles: tuple[Tensor, Tensor] | None) -> Tensor:
    query, key, value = (
        part.view(BATCH, LENGTH, HEADS, WIDTH).transpose(1, 2) for part in projected.chunk(3, dim=-1)
    )  # (B, H, T, K) each
    if angles is not None:
        query, key = rotate(query, angles), rotate(key, angles)
    mixed, _ = scaled_dot_product_attention(query, key, value, mask=mask)
    return mixed.transpose(1, 2).flatten(2)


def output_and_gradient(attend: Callable[[Tensor], Tensor], projected: Tensor) -> tuple[Tensor, Tensor]:
    leaf = projected.clone().requires_grad_()
    output = attend(leaf)
    output.backward(seeded(*output.shape, seed=2, dtype=output.dtype))
    assert leaf.grad is not None
    return output.detach(), leaf.grad


# Attention


@pytest.mark.parametrize("positions", ["learned", "rotary", "rotary of each row"])
@pytest.mark.parametrize("mask", MASKS)
def test_fused_attention_and_its_gradient_are_those_written_out(mask: str, positions: str) -> None:
    projected, angles = seeded(BATCH, LENGTH, 3 * HEADS * WIDTH), angles_of(positions)
    found = output_and_gradient(
        lambda leaf: fused_self_attention(leaf, HEADS, mask=MASKS[mask], angles=angles), projected
    )
    expected = output_and_gradient(lambda leaf: written_out(leaf, MASKS[mask], angles), projected)
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 0.1
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_equal_positions_of_all_rows_are_those_of_every_row() -> None:
    projected = seeded(BATCH, LENGTH, 3 * HEADS * WIDTH)
    of_rows = angles_of_rows(torch.arange(LENGTH).expand(BATCH, LENGTH), WIDTH)
    torch.testing.assert_close(
        fused_self_attention(projected, HEADS, angles=of_rows),
        fused_self_attention(projected, HEADS, angles=angles_of("rotary")),
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize("angles", [rotary_angles(4, 2), angles_of_rows(torch.tensor([[5, 0, 2, 9]]), 2)])
def test_the_gradient_of_fused_attention_is_that_of_small_differences(angles: tuple[Tensor, Tensor]) -> None:
    projected = seeded(1, 4, 3 * 4).requires_grad_()
    mask = padding_mask(torch.tensor([3]), 4)
    assert torch.autograd.gradcheck(
        lambda leaf: fused_self_attention(leaf, 2, mask=mask, angles=angles), projected, atol=1e-7
    )


def test_a_token_with_one_key_alone_gives_its_value() -> None:
    projected = seeded(1, 2, 3 * 4)
    output = fused_self_attention(projected, 2, mask=padding_mask(torch.tensor([1]), 2))
    torch.testing.assert_close(output, projected[:, :1, 8:].expand(1, 2, 4))


def test_fused_attention_in_bfloat16_is_near_that_in_float32() -> None:
    projected, mask = seeded(BATCH, LENGTH, 3 * HEADS * WIDTH, dtype=torch.float32), MASKS["padding"]
    low = fused_self_attention(projected.bfloat16(), HEADS, mask=mask, angles=angles_of("rotary"))
    high = fused_self_attention(projected, HEADS, mask=mask, angles=angles_of("rotary"))
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), high, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("positions", ["learned", "rotary", "rotary of each row"])
@pytest.mark.parametrize("mask", MASKS)
def test_a_layer_of_attention_computes_the_same_fused_or_not(mask: str, positions: str, training: bool) -> None:
    torch.manual_seed(3)
    # In training, dropout is in the path that is written out alone.
    layer = MultiHeadAttention(HEADS * WIDTH, HEADS, dropout=0.0 if training else 0.5).double().train(training)
    hidden, results = seeded(BATCH, LENGTH, HEADS * WIDTH), []
    for fast in (True, False):
        layer.fused = fast
        layer.zero_grad()
        output, gradient = output_and_gradient(
            lambda leaf: layer(leaf, mask=MASKS[mask], angles=angles_of(positions))[0], hidden
        )
        results.append([output, gradient, *(parameter.grad.clone() for parameter in layer.parameters())])
    assert len(results[0]) == 10
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_the_fused_path_is_taken_where_it_applies_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(projected: Tensor, heads: int, **options: Tensor) -> Tensor:
        calls.append(heads)
        return fused_self_attention(projected, heads, **options)

    monkeypatch.setattr("ctxembed.model.attention.fused_self_attention", counted)
    hidden = seeded(1, 3, 4, dtype=torch.float32)
    layer = MultiHeadAttention(4, 2, dropout=0.5)
    layer.eval()(hidden)
    assert calls == [2]
    layer.eval()(hidden, need_weights=True)
    layer.eval()(hidden, context=hidden)
    layer.train()(hidden)
    layer.fused = False
    layer.eval()(hidden)
    assert calls == [2]


# The loss over the vocabulary


def loss_and_gradients(
    loss_of: Callable[[Tensor, Tensor, Tensor], Tensor], *tensors: Tensor
) -> tuple[float, list[Tensor]]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    loss = loss_of(*leaves)
    (3 * loss).backward()  # what comes from above is passed on
    return loss.item(), [leaf.grad for leaf in leaves if leaf.grad is not None]


@pytest.mark.parametrize(("rows", "padding"), [(1, 0), (5, 0), (5, 3), (8, 0), (8, 8), (19, 0), (20, 4), (3, 14)])
def test_the_loss_and_its_gradients_are_those_of_torch(
    rows: int, padding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "LOSS_ROWS", 8)
    hidden, table, bias = seeded(rows + padding, 4), seeded(11, 4, seed=2), seeded(11, seed=3)
    targets = torch.arange(rows) * 7 % 11
    loss, gradients = loss_and_gradients(
        lambda *leaves: tied_cross_entropy(*leaves, targets)[0], hidden, table, bias
    )  # rows beyond the targets are padding
    expected, known = loss_and_gradients(
        lambda hidden, table, bias: functional.cross_entropy(hidden[:rows] @ table.T + bias, targets),
        hidden,
        table,
        bias,
    )
    assert loss == pytest.approx(expected, rel=1e-6)
    assert len(gradients) == 3
    for ours, theirs in zip(gradients, known, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)  # sums over rows are float32


def test_more_rows_than_are_scored_at_one_time_lose_nothing() -> None:
    rows = fused.LOSS_ROWS + 100
    hidden, table, bias = (
        seeded(*shape, seed=number, dtype=torch.float32) for number, shape in enumerate([(rows, 4), (11, 4), (11,)])
    )
    targets = torch.arange(rows) % 11
    loss, hits = tied_cross_entropy(hidden, table, bias, targets)
    scores = hidden @ table.T + bias
    assert loss.item() == pytest.approx(functional.cross_entropy(scores, targets).item(), rel=1e-5)
    assert hits.tolist() == (scores.argmax(dim=1) == targets).tolist()
    assert 0 < hits.float().mean().item() < 0.5


@pytest.mark.parametrize("padding", [0, 5])
def test_hits_tell_which_targets_score_highest(padding: int) -> None:
    hidden = torch.cat((torch.eye(4), torch.ones(padding, 4)))
    _, hits = tied_cross_entropy(hidden, torch.eye(4), torch.zeros(4), torch.tensor([0, 1, 1, 3]))
    assert hits.tolist() == [True, True, False, True]


def test_the_loss_without_gradients_is_the_same() -> None:
    hidden, table, bias, targets = seeded(5, 4), seeded(11, 4, seed=2), seeded(11, seed=3), torch.arange(5)
    with torch.no_grad():
        value, _ = tied_cross_entropy(hidden, table, bias, targets)
    assert (
        value.item()
        == loss_and_gradients(lambda *leaves: tied_cross_entropy(*leaves, targets)[0], hidden, table, bias)[0]
    )
    assert not value.requires_grad


def test_the_loss_of_a_hopeless_guess_is_large_and_finite() -> None:
    hidden = torch.tensor([[200.0, 0.0]], requires_grad=True)
    loss, hits = tied_cross_entropy(hidden, torch.eye(2), torch.zeros(2), torch.tensor([1]))
    loss.backward()
    assert 60 < loss.item() < 210
    assert hits.tolist() == [False]
    assert hidden.grad is not None
    assert hidden.grad.tolist() == [[1.0, -1.0]]


def test_the_loss_in_bfloat16_is_a_float32_near_the_exact_one() -> None:
    parts = [seeded(40, 16), seeded(30, 16, seed=2) / 4, seeded(30, seed=3)]
    targets = torch.arange(40) % 30
    exact, known = loss_and_gradients(lambda *leaves: tied_cross_entropy(*leaves, targets)[0], *parts)
    low = [part.bfloat16().requires_grad_() for part in parts]
    loss, _ = tied_cross_entropy(*low, targets)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=0.02)
    for leaf, gradient in zip(low, known, strict=True):
        assert leaf.grad is not None
        assert leaf.grad.dtype == torch.bfloat16
        agreement = functional.cosine_similarity(leaf.grad.double().flatten(), gradient.flatten(), dim=0)
        assert agreement > 0.999
