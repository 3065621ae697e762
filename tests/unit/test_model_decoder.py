from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ctxembed.config import DecoderConfig, EncoderConfig, from_mapping, to_mapping
from ctxembed.errors import InvalidInputError
from ctxembed.model.attention import causal_mask
from ctxembed.model.decoder import DecoderOutput, TransformerDecoder, sentence_memory
from ctxembed.model.embeddings import TokenEmbedding

BASE = EncoderConfig(
    vocab_size=40, hidden_size=16, num_layers=3, num_heads=2, intermediate_size=24, max_length=12, dropout=0.0
)
SHAPES = [
    replace(BASE, positions=positions, norm=norm, feed_forward=feed_forward)
    for positions, (norm, feed_forward) in itertools.product(
        ["learned", "sinusoidal", "rotary"], [("post", "gelu"), ("pre", "gelu"), ("pre", "swiglu")]
    )
]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda c: f"{c.positions}-{c.norm}-{c.feed_forward}")
MEMORY_LENGTHS = torch.tensor([5, 1, 3])


class Model:
    """A decoder with the embedding it is called with; weights far enough from zero that everything is felt."""

    def __init__(self, shape: EncoderConfig, **settings: Any) -> None:
        torch.manual_seed(1)
        self.embedding = TokenEmbedding(shape).eval()
        self.decoder = TransformerDecoder(shape, DecoderConfig(**settings)).eval()
        self.parameters = [*self.embedding.parameters(), *self.decoder.parameters()]
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)

    def __call__(self, ids: Tensor, memory: Tensor, **options: Any) -> DecoderOutput:
        output: DecoderOutput = self.decoder(ids, memory, embedding=self.embedding, **options)
        return output


def token_ids(rows: int = 3, width: int = 7, seed: int = 2) -> Tensor:
    return torch.randint(0, BASE.vocab_size, (rows, width), generator=torch.Generator().manual_seed(seed))


def memories(rows: int = 3, width: int = 5) -> Tensor:
    return torch.randn(rows, width, BASE.hidden_size, generator=torch.Generator().manual_seed(3))


# What a token knows


@pytest.mark.parametrize("training", [False, True])
@every_shape
def test_a_later_token_changes_nothing_before_it_and_all_from_it_on(shape: EncoderConfig, training: bool) -> None:
    model, ids = Model(shape), token_ids()
    model.decoder.train(training)
    before = model(ids, memories()).hidden
    for place in range(ids.size(1)):
        changed = ids.clone()
        changed[:, place] = (ids[:, place] + 1) % BASE.vocab_size
        difference = (model(changed, memories()).hidden - before).abs().amax(dim=-1)  # (B, T)
        assert (difference[:, :place] < 1e-6).all()
        assert (difference[:, place:] > 1e-5).all()


@every_shape
def test_a_prefix_alone_equals_the_beginning_of_the_row(shape: EncoderConfig) -> None:
    model, ids = Model(shape), token_ids()
    whole = model(ids, memories()).hidden
    for width in range(1, ids.size(1) + 1):
        prefix = model(ids[:, :width], memories()).hidden
        torch.testing.assert_close(prefix, whole[:, :width], atol=1e-5, rtol=0)


@every_shape
def test_order_matters(shape: EncoderConfig) -> None:
    model = Model(shape)
    one, other = (model(torch.tensor([row]), memories(1)).hidden[0, -1] for row in ([3, 4, 5, 6], [4, 3, 5, 6]))
    assert (one - other).abs().max() > 1e-3


@every_shape
def test_every_token_feels_the_memory(shape: EncoderConfig) -> None:
    model, ids = Model(shape), token_ids()
    before = model(ids, memories()).hidden
    after = model(ids, memories() + 1.0).hidden
    assert ((after - before).abs().amax(dim=-1) > 1e-3).all()


@every_shape
def test_a_memory_alone_equals_the_memory_in_a_padded_batch(shape: EncoderConfig) -> None:
    model, ids, memory = Model(shape), token_ids(), memories()
    for row, length in enumerate(MEMORY_LENGTHS.tolist()):
        memory[row, length:] = 1e3
    batch = model(ids, memory, memory_lengths=MEMORY_LENGTHS).hidden
    for row, length in enumerate(MEMORY_LENGTHS.tolist()):
        alone = model(ids[row : row + 1], memory[row : row + 1, :length]).hidden
        torch.testing.assert_close(alone[0], batch[row], atol=1e-5, rtol=0)


def test_memory_has_no_order() -> None:
    model, ids, memory = Model(replace(BASE, positions="rotary")), token_ids(), memories()
    turned = model(ids, memory.flip(1)).hidden
    torch.testing.assert_close(turned, model(ids, memory).hidden, atol=1e-5, rtol=0)


# Attention weights


@every_shape
def test_both_kinds_of_weights_are_distributions_over_what_may_be_seen(shape: EncoderConfig) -> None:
    model, ids = Model(shape, num_layers=3), token_ids()
    output = model(ids, memories(), memory_lengths=MEMORY_LENGTHS, need_weights=True)
    assert [tuple(weights.shape) for weights in output.self_attentions] == [(3, 2, 7, 7)] * 3
    assert [tuple(weights.shape) for weights in output.memory_attentions] == [(3, 2, 7, 5)] * 3
    for weights in (*output.self_attentions, *output.memory_attentions):
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 2, 7), atol=1e-5, rtol=0)
    for weights in output.self_attentions:
        assert (weights[..., ~causal_mask(7)] == 0).all()
        assert (weights[..., causal_mask(7)] > 0).all()
    for weights in output.memory_attentions:
        for row, length in enumerate(MEMORY_LENGTHS.tolist()):
            assert (weights[row, ..., length:] == 0).all()


def test_asking_for_weights_changes_no_vector() -> None:
    model, ids = Model(BASE), token_ids()
    with_weights, without = model(ids, memories(), need_weights=True), model(ids, memories())
    torch.testing.assert_close(with_weights.hidden, without.hidden, atol=1e-6, rtol=0)
    assert (without.self_attentions, without.memory_attentions) == ((), ())


def test_a_memory_of_one_vector_has_all_the_weight() -> None:
    output = Model(BASE)(token_ids(), memories(width=1), need_weights=True)
    assert all(torch.equal(weights, torch.ones(3, 2, 7, 1)) for weights in output.memory_attentions)


# Shape, weights, training


def test_shape_is_the_encoders_but_for_what_is_its_own() -> None:
    own = TransformerDecoder(replace(BASE, dropout=0.3), DecoderConfig(num_layers=4, intermediate_size=40, dropout=0.2))
    assert len(own.layers) == 4
    assert own.layers[0].feed_forward.inner.out_features == 40
    assert own.layers[3].dropout.p == 0.2
    inherited = TransformerDecoder(replace(BASE, dropout=0.3), DecoderConfig())
    assert len(inherited.layers) == 2
    assert inherited.layers[0].feed_forward.inner.out_features == 24
    assert (inherited.layers[0].dropout.p, inherited.layers[0].self_attention.num_heads) == (0.3, 2)


def test_tokens_and_logits_are_tied_to_the_table_that_is_given() -> None:
    decoder = TransformerDecoder(BASE, DecoderConfig())
    assert not [name for name, _ in decoder.named_parameters() if "embedding" in name or "table" in name]
    hidden, table = torch.randn(5, 16), torch.randn(40, 16)
    with torch.no_grad():
        decoder.bias.copy_(torch.arange(40.0))
    torch.testing.assert_close(decoder.logits(hidden, table), hidden @ table.T + torch.arange(40.0))
    assert decoder.logits(hidden[:0], table).shape == (0, 40)


@every_shape
def test_gradients_reach_every_parameter(shape: EncoderConfig) -> None:
    model = Model(shape)
    model.decoder.double().train()
    model.embedding.double()
    ids = token_ids(width=shape.max_length)
    hidden = model(ids, memories().double()).hidden
    logits = model.decoder.logits(hidden, model.embedding.tokens.weight)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flip(1).flatten()).backward()
    named = dict(model.decoder.named_parameters())
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters)
    untouched = {name for name, parameter in named.items() if parameter.grad.norm() < 1e-13}
    # The bias of the keys adds the same to all scores of a query, so softmax cancels it, unless it is rotated.
    kinds = ("memory_attention",) if shape.positions == "rotary" else ("memory_attention", "self_attention")
    assert untouched == {f"layers.{layer}.{kind}.key.bias" for layer in range(2) for kind in kinds}


def test_dropout_acts_in_training_and_not_in_evaluation() -> None:
    model, ids = Model(replace(BASE, dropout=0.3)), token_ids()
    assert torch.equal(model(ids, memories()).hidden, model(ids, memories()).hidden)
    model.decoder.train()
    assert not torch.equal(model(ids, memories()).hidden, model(ids, memories()).hidden)


def test_initial_weights_are_drawn_as_in_bert() -> None:
    torch.manual_seed(3)
    decoder = TransformerDecoder(replace(BASE, hidden_size=64), DecoderConfig())
    assert decoder.layers[0].memory_attention.query.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert decoder.layers[1].feed_forward.inner.bias.abs().max() == 0
    assert torch.equal(decoder.layers[0].memory_attention_norm.weight, torch.ones(64))
    assert decoder.bias.abs().max() == 0


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
def test_rows_beyond_max_length_are_refused(positions: Any) -> None:
    model = Model(replace(BASE, positions=positions))
    assert model(token_ids(width=12), memories()).hidden.shape == (3, 12, 16)
    with pytest.raises(InvalidInputError, match="rows of 13 tokens, the limit is max_length = 12"):
        model(token_ids(width=13), memories())


# Masks and memories


def test_causal_mask_of_one_token_lets_it_see_itself() -> None:
    assert causal_mask(1).tolist() == [[True]]


def test_sentence_memory_keeps_the_direction_only() -> None:
    vectors = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    memory = sentence_memory(vectors)
    assert memory.shape == (4, 1, 16)
    torch.testing.assert_close(memory, sentence_memory(vectors * torch.tensor([[0.01], [1.0], [7.0], [300.0]])))
    torch.testing.assert_close(memory[:, 0].norm(dim=1), torch.full((4,), math.sqrt(16)))
    torch.testing.assert_close(torch.cosine_similarity(memory[:, 0], vectors), torch.ones(4))
    assert torch.equal(sentence_memory(torch.zeros(1, 16)), torch.zeros(1, 1, 16))


# Config


@pytest.mark.parametrize(
    "config", [DecoderConfig(), DecoderConfig(num_layers=1, intermediate_size=8, dropout=0.0), DecoderConfig(dropout=0)]
)
def test_config_comes_back_from_its_mapping(config: DecoderConfig) -> None:
    assert from_mapping(DecoderConfig, to_mapping(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_layers": 0}, "num_layers = 0: must be at least 1"),
        ({"intermediate_size": 0}, "intermediate_size = 0: must be at least 1, or left out"),
        ({"dropout": 1.0}, r"dropout = 1.0: must be in \[0, 1\), or left out"),
        ({"dropout": -0.1}, r"dropout = -0.1: must be in \[0, 1\)"),
        ({"num_layer": 1}, "unknown setting 'num_layer' for DecoderConfig: did you mean 'num_layers'"),
        ({"dropout": "0.1"}, "DecoderConfig.dropout = '0.1': must be a"),
    ],
)
def test_impossible_shapes_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        from_mapping(DecoderConfig, values)
