"""The encoder with BERT's weights against transformers, and its layers against torch's."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM

from ctxembed.config import EncoderConfig
from ctxembed.config import FeedForward as FeedForwardKind
from ctxembed.model.attention import padding_mask
from ctxembed.model.encoder import EncoderLayer, FeedForward, MaskedWordHead, TransformerEncoder

TOLERANCE = 1e-5
SHAPE = EncoderConfig(
    vocab_size=60,
    hidden_size=32,
    num_layers=3,
    num_heads=4,
    intermediate_size=48,
    max_length=16,
    num_token_types=2,
    dropout=0.0,
)
LENGTHS = torch.tensor([9, 4, 1, 7])
TOP_NAMES = {
    "embeddings.word_embeddings.": "embedding.tokens.",
    "embeddings.position_embeddings.": "embedding.positions.",
    "embeddings.token_type_embeddings.": "embedding.types.",
    "embeddings.LayerNorm.": "embedding.norm.",
}
LAYER_NAMES = {
    "attention.self.query.": "attention.query.",
    "attention.self.key.": "attention.key.",
    "attention.self.value.": "attention.value.",
    "attention.output.dense.": "attention.output.",
    "attention.output.LayerNorm.": "attention_norm.",
    "intermediate.dense.": "feed_forward.inner.",
    "output.dense.": "feed_forward.outer.",
    "output.LayerNorm.": "feed_forward_norm.",
}
HEAD_NAMES = {"transform.dense.": "dense.", "transform.LayerNorm.": "norm.", "bias": "bias"}


def randomise(module: nn.Module, *, seed: int) -> None:
    """Move every parameter, layer norms and biases too, so that a swapped pair of names is seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.2)


def all_names() -> dict[str, str]:
    """Return the prefix of each of BERT's parameters with the prefix it has here."""
    layers = {
        f"encoder.layer.{number}.{theirs}": f"layers.{number}.{ours}"
        for number in range(SHAPE.num_layers)
        for theirs, ours in LAYER_NAMES.items()
    }
    return {**TOP_NAMES, **layers}


def renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Give parameters their names here."""
    return {
        name.replace(theirs, ours, 1): value
        for theirs, ours in names.items()
        for name, value in state.items()
        if name.startswith(theirs)
    }


@pytest.fixture(scope="module")
def bert() -> BertForMaskedLM:
    config = BertConfig(
        vocab_size=SHAPE.vocab_size,
        hidden_size=SHAPE.hidden_size,
        num_hidden_layers=SHAPE.num_layers,
        num_attention_heads=SHAPE.num_heads,
        intermediate_size=SHAPE.intermediate_size,
        max_position_embeddings=SHAPE.max_length,
        type_vocab_size=SHAPE.num_token_types,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=SHAPE.layer_norm_eps,
    )
    torch.manual_seed(1)
    model = BertForMaskedLM(config)
    randomise(model, seed=2)
    return model


@pytest.fixture(scope="module")
def encoder(bert: BertForMaskedLM) -> TransformerEncoder:
    ours = TransformerEncoder(SHAPE)
    ours.load_state_dict(renamed(bert.bert.state_dict(), all_names()))
    return ours


def token_ids() -> Tensor:
    return torch.randint(
        0, SHAPE.vocab_size, (len(LENGTHS), int(LENGTHS.max())), generator=torch.Generator().manual_seed(3)
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_hidden_states_equal_those_of_bert_at_every_layer(
    bert: BertForMaskedLM, encoder: TransformerEncoder, padded: bool, training: bool
) -> None:
    ids = token_ids()
    lengths = LENGTHS if padded else torch.full_like(LENGTHS, ids.size(1))
    real = torch.arange(ids.size(1)) < lengths[:, None]
    with torch.no_grad():
        own = encoder.train(training)(ids, lengths if padded else None).hidden_states
        expected = bert.train(training).bert(ids, attention_mask=real.long(), output_hidden_states=True).hidden_states
    assert len(own) == len(expected) == SHAPE.num_layers + 1
    for ours, theirs in zip(own, expected, strict=True):
        torch.testing.assert_close(ours[real], theirs[real], atol=TOLERANCE, rtol=0)


def test_masked_word_head_equals_that_of_bert(bert: BertForMaskedLM, encoder: TransformerEncoder) -> None:
    head = MaskedWordHead(SHAPE)
    head.load_state_dict(renamed(bert.cls.predictions.state_dict(), HEAD_NAMES))
    with torch.no_grad():
        own = head(encoder.eval()(token_ids()).last, encoder.embedding.tokens.weight)
        expected = bert.eval()(token_ids()).logits
    torch.testing.assert_close(own, expected, atol=TOLERANCE, rtol=0)


# One layer


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_encoder_layer_equals_that_of_torch(norm: str, training: bool, padded: bool) -> None:
    torch.manual_seed(4)
    own = EncoderLayer(
        EncoderConfig(vocab_size=9, hidden_size=24, num_heads=3, intermediate_size=40, norm=norm, dropout=0.0)
    )
    reference = nn.TransformerEncoderLayer(
        24, 3, 40, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True, norm_first=norm == "pre"
    )
    randomise(own, seed=5)
    attention = own.attention
    parts = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        reference.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        reference.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    reference.self_attn.out_proj.load_state_dict(attention.output.state_dict())
    reference.linear1.load_state_dict(own.feed_forward.inner.state_dict())
    reference.linear2.load_state_dict(own.feed_forward.outer.state_dict())
    reference.norm1.load_state_dict(own.attention_norm.state_dict())
    reference.norm2.load_state_dict(own.feed_forward_norm.state_dict())
    hidden = torch.randn(len(LENGTHS), 9, 24)
    mask = padding_mask(LENGTHS, 9) if padded else None
    found, _ = own.train(training)(hidden, mask=mask)
    expected = reference.train(training)(hidden, src_key_padding_mask=None if mask is None else ~mask[:, 0, 0])
    real = padding_mask(LENGTHS if padded else torch.full_like(LENGTHS, 9), 9)[:, 0, 0]
    torch.testing.assert_close(found[real], expected[real], atol=TOLERANCE, rtol=0)


def gelu(x: float) -> float:
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("kind", "activate", "gated"), [("gelu", gelu, False), ("geglu", gelu, True), ("swiglu", silu, True)]
)
def test_feed_forward_equals_its_formula(
    kind: FeedForwardKind, activate: Callable[[float], float], gated: bool
) -> None:
    layer = FeedForward(
        EncoderConfig(vocab_size=9, hidden_size=6, num_heads=1, intermediate_size=10, feed_forward=kind)
    ).double()
    randomise(layer, seed=6)
    hidden = torch.randn(2, 3, 6, dtype=torch.float64)
    inner_weight, inner_bias, outer_weight, outer_bias = (p.detach().numpy() for p in layer.parameters())
    inner = hidden.numpy() @ inner_weight.T + inner_bias
    active = np.vectorize(activate)(inner[..., :10])
    expected = (active * inner[..., 10:] if gated else active) @ outer_weight.T + outer_bias
    np.testing.assert_allclose(layer(hidden).detach().numpy(), expected, atol=1e-12)
