from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ctxembed.config import EncoderConfig
from ctxembed.errors import InvalidInputError
from ctxembed.model.encoder import KeptTokens, MaskedWordHead, TransformerEncoder

BASE = EncoderConfig(
    vocab_size=40, hidden_size=16, num_layers=3, num_heads=2, intermediate_size=24, max_length=12, dropout=0.0
)
SHAPES = [
    replace(BASE, positions=positions, norm=norm, feed_forward=feed_forward, num_token_types=types)
    for (positions, types), (norm, feed_forward) in itertools.product(
        [("learned", 2), ("sinusoidal", 0), ("rotary", 0)],
        [("post", "gelu"), ("pre", "gelu"), ("post", "geglu"), ("pre", "swiglu")],
    )
]
LENGTHS = torch.tensor([6, 1, 3, 10])
every_shape = pytest.mark.parametrize("config", SHAPES, ids=lambda c: f"{c.positions}-{c.norm}-{c.feed_forward}")


def build(config: EncoderConfig) -> TransformerEncoder:
    """Return an encoder whose weights are far enough from zero that every token feels its neighbours."""
    torch.manual_seed(1)
    encoder = TransformerEncoder(config).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return encoder


def token_ids(rows: int = 4, width: int = 10) -> Tensor:
    return torch.randint(0, BASE.vocab_size, (rows, width), generator=torch.Generator().manual_seed(2))


@every_shape
def test_a_row_alone_equals_the_row_in_a_padded_batch(config: EncoderConfig) -> None:
    encoder, ids = build(config), token_ids()
    batch = encoder(ids, LENGTHS).hidden_states
    for row, length in enumerate(LENGTHS.tolist()):
        alone = encoder(ids[row : row + 1, :length]).hidden_states
        for ours, batched in zip(alone, batch, strict=True):
            torch.testing.assert_close(ours[0], batched[row, :length], atol=1e-5, rtol=0)


@every_shape
def test_tokens_depend_on_their_neighbours_and_on_their_order(config: EncoderConfig) -> None:
    encoder = build(config)
    before = encoder(torch.tensor([[3, 4, 5, 6]])).last[0, 0]
    other_neighbour = encoder(torch.tensor([[3, 4, 7, 6]])).last[0, 0]
    other_order = encoder(torch.tensor([[3, 5, 4, 6]])).last[0, 0]
    assert (before - other_neighbour).abs().max() > 1e-2
    assert (before - other_order).abs().max() > 1e-3


@every_shape
@pytest.mark.parametrize("num_layers", [0, 1, 2])
def test_an_early_stop_equals_the_beginning_of_the_whole(config: EncoderConfig, num_layers: int) -> None:
    encoder, ids = build(config), token_ids()
    whole = encoder(ids, LENGTHS).hidden_states
    stopped = encoder(ids, LENGTHS, num_layers=num_layers).hidden_states
    assert len(stopped) == num_layers + 1
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(stopped, whole[: num_layers + 1], strict=True))


@every_shape
def test_stopping_after_all_layers_equals_not_stopping(config: EncoderConfig) -> None:
    encoder, ids = build(config), token_ids()
    assert torch.equal(encoder(ids, num_layers=config.num_layers).last, encoder(ids).last)


@every_shape
def test_a_full_length_row_is_the_same_with_and_without_lengths(config: EncoderConfig) -> None:
    encoder, ids = build(config), token_ids()
    with_lengths = encoder(ids, torch.full((len(ids),), ids.size(1))).last
    torch.testing.assert_close(with_lengths, encoder(ids).last, atol=1e-6, rtol=0)


@every_shape
def test_gradients_reach_every_parameter(config: EncoderConfig) -> None:
    encoder, head = build(config).double().train(), MaskedWordHead(config).double()
    ids = token_ids(rows=1, width=config.max_length)
    logits = head(encoder(ids).last, encoder.embedding.tokens.weight)
    torch.nn.functional.cross_entropy(logits[0], ids[0].flip(0)).backward()
    named = [*encoder.named_parameters(), *head.named_parameters()]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for _, parameter in named)
    untouched = {name for name, parameter in named if parameter.grad is not None and parameter.grad.norm() < 1e-13}
    # The bias of the keys adds the same to all scores of a query, so softmax cancels it, unless it is rotated.
    keys = {f"layers.{number}.attention.key.bias" for number in range(config.num_layers)}
    assert untouched == (set() if config.positions == "rotary" else keys)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
def test_rows_beyond_max_length_are_refused(positions: str) -> None:
    encoder = TransformerEncoder(replace(BASE, positions=positions))
    assert encoder(token_ids(width=12)).last.shape == (4, 12, 16)
    with pytest.raises(InvalidInputError, match=r"rows of 13 tokens, the limit is max_length = 12: window them"):
        encoder(token_ids(width=13))


def test_hidden_states_begin_with_the_embedding_layer() -> None:
    encoder, ids = build(BASE), token_ids()
    output = encoder(ids)
    assert [tuple(state.shape) for state in output.hidden_states] == [(4, 10, 16)] * 4
    assert torch.equal(output.hidden_states[0], encoder.embedding(ids))
    assert output.last is output.hidden_states[-1]
    assert output.attentions == ()


def test_attentions_of_every_layer_are_distributions_over_real_tokens() -> None:
    encoder, ids = build(BASE), token_ids()
    output = encoder(ids, LENGTHS, need_weights=True)
    assert [tuple(weights.shape) for weights in output.attentions] == [(4, 2, 10, 10)] * 3
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(4, 2, 10), atol=1e-5, rtol=0)
        for row, length in enumerate(LENGTHS.tolist()):
            assert (weights[row, :, :, length:] == 0).all()
    torch.testing.assert_close(output.last, encoder(ids, LENGTHS).last, atol=1e-5, rtol=0)


def test_dropout_acts_in_training_and_not_in_evaluation() -> None:
    encoder, ids = build(replace(BASE, dropout=0.3)), token_ids()
    assert torch.equal(encoder(ids).last, encoder(ids).last)
    encoder.train()
    assert not torch.equal(encoder(ids).last, encoder(ids).last)


def test_initial_weights_are_drawn_as_in_bert() -> None:
    torch.manual_seed(3)
    encoder = TransformerEncoder(replace(BASE, vocab_size=2000, hidden_size=64))
    assert encoder.embedding.tokens.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert encoder.layers[0].attention.query.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert encoder.layers[0].feed_forward.inner.bias.abs().max() == 0
    assert torch.equal(encoder.layers[0].attention_norm.weight, torch.ones(64))


def test_masked_word_head_scores_by_the_embedding_table() -> None:
    head, table = MaskedWordHead(BASE), torch.randn(40, 16)
    hidden = torch.randn(5, 16)
    logits = head(hidden, table)
    moved = head(hidden, table.roll(1, dims=0))
    assert logits.shape == (5, 40)
    torch.testing.assert_close(moved, logits.roll(1, dims=1))
    assert head(hidden[:0], table).shape == (0, 40)


@every_shape
def test_some_tokens_alone_equal_those_of_all_and_so_do_their_gradients(config: EncoderConfig) -> None:
    encoder, ids, positions = build(config), token_ids(), torch.tensor([31, 0, 5, 20, 5])
    chosen = encoder.at(ids, positions, LENGTHS)
    torch.testing.assert_close(chosen, encoder(ids, LENGTHS).last.flatten(0, 1)[positions], atol=1e-5, rtol=0)
    gradients = []
    for result in (encoder.at(ids, positions, LENGTHS), encoder(ids, LENGTHS).last.flatten(0, 1)[positions]):
        encoder.zero_grad()
        (result * torch.arange(16.0)).sin().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in encoder.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)


def at_with_masks(encoder: TransformerEncoder, ids: Tensor, positions: Tensor, kept: KeptTokens) -> Tensor:
    """What ``at`` gives with dropped tokens, by all tokens and masks that hide the dropped ones from the kept ones."""
    hidden, mask, angles = encoder._begin(ids, LENGTHS)
    hidden, _ = encoder.layers[0](hidden, mask=mask, angles=angles)
    chosen = torch.zeros(ids.shape, dtype=torch.bool)
    for row, (places, count) in enumerate(zip(kept.places, kept.lengths.tolist(), strict=True)):
        chosen[row, places[:count]] = True
    inner = hidden
    for layer in encoder.layers[1:-1]:
        inner, _ = layer(inner, mask=chosen[:, None, None, :], angles=angles)
    hidden = torch.where(chosen[..., None], inner, hidden)
    hidden, _ = encoder.layers[-1](hidden, mask=mask, angles=angles)
    return encoder._end(hidden).flatten(0, 1)[positions]


@every_shape
def test_dropped_tokens_pass_by_the_middle_layers_and_nobody_sees_them_there(config: EncoderConfig) -> None:
    encoder, ids, positions = build(replace(config, num_layers=4)), token_ids(), torch.tensor([31, 0, 5, 20, 10])
    places = torch.tensor([[0, 3, 5, 4], [0, 1, 2, 3], [0, 2, 1, 9], [1, 2, 6, 9]])  # of one row one, of one two
    kept = KeptTokens(places, torch.tensor([3, 1, 2, 4]))
    results, gradients = [], []
    for result in (
        encoder.at(ids, positions, LENGTHS, kept=kept),
        at_with_masks(encoder, ids, positions, kept),
        encoder.at(ids, positions, LENGTHS),
    ):
        encoder.zero_grad()
        (result * torch.arange(16.0)).sin().sum().backward()
        results.append(result.detach())
        gradients.append([parameter.grad.clone() for parameter in encoder.parameters() if parameter.grad is not None])
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=0)
    assert (results[0] - results[2]).abs().max() > 1e-3
    assert len(gradients[0]) == len(gradients[1]) > 10
    for ours, reference in zip(*gradients[:2], strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)


def test_an_encoder_of_two_layers_has_none_to_pass_by() -> None:
    encoder, ids, positions = build(replace(BASE, num_layers=2)), token_ids(), torch.tensor([31, 0])
    kept = KeptTokens(torch.zeros(4, 1, dtype=torch.int64), torch.ones(4, dtype=torch.int64))
    assert torch.equal(encoder.at(ids, positions, LENGTHS, kept=kept), encoder.at(ids, positions, LENGTHS))


def test_with_all_tokens_kept_nothing_changes() -> None:
    encoder, ids, positions = build(BASE), token_ids(), torch.tensor([31, 0, 5, 20, 5])
    kept = KeptTokens(torch.arange(10).expand(4, 10), LENGTHS)
    torch.testing.assert_close(
        encoder.at(ids, positions, LENGTHS, kept=kept), encoder.at(ids, positions, LENGTHS), atol=1e-5, rtol=0
    )
