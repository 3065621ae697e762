"""Decoder layers against torch's own, with the same weights; the whole stack with layers in a row."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from ctxembed.config import DecoderConfig, EncoderConfig
from ctxembed.model.attention import MultiHeadAttention, causal_mask, padding_mask
from ctxembed.model.decoder import DecoderLayer, TransformerDecoder
from ctxembed.model.embeddings import TokenEmbedding

TOLERANCE = 1e-5
MEMORY_LENGTHS = torch.tensor([6, 1, 4])
every_norm = pytest.mark.parametrize("norm", ["pre", "post"])


def shape(norm: Literal["pre", "post"]) -> EncoderConfig:
    return EncoderConfig(
        vocab_size=50,
        hidden_size=24,
        num_heads=4,
        intermediate_size=40,
        max_length=16,
        positions="sinusoidal",
        norm=norm,
        dropout=0.0,
        layer_norm_eps=1e-5,
    )


def reference_layer(config: EncoderConfig) -> nn.TransformerDecoderLayer:
    return nn.TransformerDecoderLayer(
        config.hidden_size,
        config.num_heads,
        dim_feedforward=config.intermediate_size,
        dropout=0.0,
        activation="gelu",
        layer_norm_eps=config.layer_norm_eps,
        batch_first=True,
        norm_first=config.norm == "pre",
    )


def copy_attention(own: MultiHeadAttention, reference: nn.MultiheadAttention) -> None:
    own_maps = (own.query, own.key, own.value)
    weights, biases = reference.in_proj_weight.chunk(3), reference.in_proj_bias.chunk(3)
    for layer, weight, bias in zip(own_maps, weights, biases, strict=True):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    own.output.load_state_dict(reference.out_proj.state_dict())


def copy_layer(own: DecoderLayer, reference: nn.TransformerDecoderLayer, *, seed: int) -> None:
    """Draw every weight of torch's layer anew, norms and biases too, and give them to ours."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
        copy_attention(own.self_attention, reference.self_attn)
        copy_attention(own.memory_attention, reference.multihead_attn)
    pairs = [
        (own.self_attention_norm, reference.norm1),
        (own.memory_attention_norm, reference.norm2),
        (own.feed_forward_norm, reference.norm3),
        (own.feed_forward.inner, reference.linear1),
        (own.feed_forward.outer, reference.linear2),
    ]
    for ours, theirs in pairs:
        ours.load_state_dict(theirs.state_dict())


def tokens(seed: int, width: int) -> Tensor:
    return torch.randn(3, width, 24, generator=torch.Generator().manual_seed(seed))


@every_norm
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_layer_equals_torch(norm: Literal["pre", "post"], training: bool, padded: bool) -> None:
    own, reference = DecoderLayer(shape(norm)).train(training), reference_layer(shape(norm)).train(training)
    copy_layer(own, reference, seed=1)
    hidden, memory = tokens(2, 9), tokens(3, 6)
    memory_mask = padding_mask(MEMORY_LENGTHS, 6) if padded else None  # (B, 1, 1, S)
    found, _, _ = own(hidden, memory, mask=causal_mask(9), memory_mask=memory_mask)
    expected = reference(
        hidden,
        memory,
        tgt_mask=~causal_mask(9),
        memory_key_padding_mask=None if memory_mask is None else ~memory_mask[:, 0, 0],
    )
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@every_norm
def test_weights_equal_those_of_torch(norm: Literal["pre", "post"]) -> None:
    own, reference = DecoderLayer(shape(norm)).eval(), reference_layer(shape(norm)).eval()
    copy_layer(own, reference, seed=4)
    hidden, memory = tokens(5, 9), tokens(6, 6)
    seen: list[Tensor] = []
    for part in (own.self_attention, own.memory_attention):
        part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    _, back, across = own(hidden, memory, mask=causal_mask(9), need_weights=True)
    _, expected_back = reference.self_attn(
        seen[0], seen[0], seen[0], attn_mask=~causal_mask(9), average_attn_weights=False
    )
    _, expected_across = reference.multihead_attn(seen[1], memory, memory, average_attn_weights=False)
    torch.testing.assert_close(back, expected_back, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(across, expected_across, atol=TOLERANCE, rtol=0)


@every_norm
def test_stack_equals_torch(norm: Literal["pre", "post"]) -> None:
    config = shape(norm)
    own = TransformerDecoder(config, DecoderConfig(num_layers=3)).eval()
    final = nn.LayerNorm(24, eps=config.layer_norm_eps) if norm == "pre" else None
    reference = nn.TransformerDecoder(reference_layer(config), num_layers=3, norm=final).eval()
    for seed, (ours, theirs) in enumerate(zip(own.layers, reference.layers, strict=True)):
        copy_layer(ours, theirs, seed=seed)
    embedding = TokenEmbedding(config).eval()
    ids = torch.randint(0, 50, (3, 9), generator=torch.Generator().manual_seed(7))
    memory = tokens(8, 6)
    found = own(ids, memory, embedding=embedding, memory_lengths=MEMORY_LENGTHS).hidden
    expected = reference(
        embedding(ids),
        memory,
        tgt_mask=~causal_mask(9),
        memory_key_padding_mask=~padding_mask(MEMORY_LENGTHS, 6)[:, 0, 0],
    )
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
