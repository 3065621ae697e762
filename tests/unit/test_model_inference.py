"""The encoder laid out for embedding gives what the encoder to be read gives, and the same bits in any company."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ctxembed.model.inference as inference
from ctxembed.config import EncoderConfig
from ctxembed.model.device import is_bfloat16_fast
from ctxembed.model.encoder import TransformerEncoder
from ctxembed.model.inference import InferenceEncoder

SHAPE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 48,
    "max_length": 40,
    "dropout": 0.1,
}
FORMATS = [torch.float32, *([torch.bfloat16] if is_bfloat16_fast(torch.device("cpu")) else [])]


def encoder(dtype: torch.dtype = torch.float32, **changes: Any) -> TransformerEncoder:
    torch.manual_seed(1)
    network = TransformerEncoder(EncoderConfig(**{**SHAPE, **changes}))
    with torch.no_grad():  # as initialised, biases are zero and norms do nothing
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.to(dtype).eval()


def texts(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randint(0, 50, (length,), generator=generator) for length in lengths]


def run(network: InferenceEncoder, rows: list[Tensor], num_layers: int = 2) -> list[Tensor]:
    lengths = [len(row) for row in rows]
    with torch.inference_mode():
        return list(network(torch.cat(rows), lengths, num_layers=num_layers).split(lengths))


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("feed_forward", ["gelu", "geglu", "swiglu"])
@pytest.mark.parametrize("num_layers", [0, 1, 2])
def test_vectors_are_those_of_the_encoder(positions: str, norm: str, feed_forward: str, num_layers: int) -> None:
    network = encoder(positions=positions, norm=norm, feed_forward=feed_forward, num_token_types=2)
    rows = texts(5, 5, 1, 40, 7, 7, 7)
    with torch.inference_mode():
        expected = [network(row[None], num_layers=num_layers).last[0] for row in rows]
    for given_vectors, wanted in zip(run(InferenceEncoder(network), rows, num_layers), expected, strict=True):
        torch.testing.assert_close(given_vectors, wanted, rtol=1e-4, atol=1e-5)


def test_bfloat16_vectors_are_close_to_those_of_the_encoder_in_float32() -> None:
    rows = texts(5, 9, 40)
    given_vectors = run(InferenceEncoder(encoder(torch.bfloat16)), rows)
    wanted = run(InferenceEncoder(encoder()), rows)
    for first, second in zip(given_vectors, wanted, strict=True):
        assert torch.cosine_similarity(first.float(), second, dim=-1).min() > 0.999


@pytest.mark.parametrize("dtype", FORMATS)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30), place=st.integers(0, 30))
@settings(max_examples=25, deadline=None)
def test_a_text_has_the_same_bits_whatever_is_computed_beside_it(
    dtype: torch.dtype, lengths: list[int], place: int
) -> None:
    network = InferenceEncoder(encoder(dtype, positions="rotary", hidden_size=64, intermediate_size=96))
    own = texts(13)[0]
    others = texts(*lengths)
    place = min(place, len(others))
    among = run(network, [*others[:place], own, *others[place:]])[place]
    assert torch.equal(among, run(network, [own])[0])


def test_without_blocks_of_one_size_a_text_would_not_have_the_same_bits() -> None:
    if torch.bfloat16 not in FORMATS:
        pytest.skip("seen with products in bfloat16, which this processor is not fast in")
    generator = torch.Generator().manual_seed(0)
    wide = inference._Linear(torch.randn(384, 1536, generator=generator).bfloat16(), torch.zeros(384).bfloat16())
    rows = torch.randn(1024, 1536, generator=generator).bfloat16()
    with torch.inference_mode():
        whole = wide(rows, step=1024)
        if all(torch.equal(wide(rows[:some], step=some), whole[:some]) for some in (33, 64, 96, 128, 256)):
            pytest.skip("this processor's products do not depend on the number of rows")
        assert torch.equal(wide(rows, step=32)[:64], wide(rows[:64], step=32))


@pytest.mark.parametrize(
    ("equal", "lengths", "blocks"),
    [
        (range(2049), [5], {5}),
        (range(2049), [38], {40}),
        (range(2049), [30] * 10, {384}),
        ([32], [5], {32}),
        ([32], [38], {32}),
        ([32], [30] * 10, {2048}),
        ([], [5], {2048}),
        (range(2049), [30] * 40, {2048}),
    ],
)
def test_an_input_takes_the_fewest_rows_that_give_equal_bits(
    monkeypatch: pytest.MonkeyPatch, equal: Container[int], lengths: list[int], blocks: set[int]
) -> None:
    monkeypatch.setattr(inference._Linear, "has_equal_bits", lambda _, size, __, threads: size in equal)
    network = InferenceEncoder(encoder())
    seen: list[int] = []
    product = inference._Linear._product

    def counted(self: Any, rows: Tensor, plus: Tensor | None) -> Tensor:
        seen.append(len(rows))
        return product(self, rows, plus)

    rows = texts(*lengths)
    with torch.inference_mode():
        expected = [network.encoder(row[None]).last[0] for row in rows]
    monkeypatch.setattr(inference._Linear, "_product", counted)
    for given_vectors, wanted in zip(run(network, rows), expected, strict=True):
        torch.testing.assert_close(given_vectors, wanted, rtol=1e-4, atol=1e-5)
    assert set(seen) == blocks


def test_rows_of_other_bits_are_found_out() -> None:
    layer = inference._Linear(torch.randn(8, 16), torch.zeros(8))
    assert layer.has_equal_bits(5, 64, threads=1)
    product = layer._product
    layer._product = lambda rows, plus: product(rows, plus) + (len(rows) == 5) * 1e-6  # type: ignore[method-assign]
    assert not layer.has_equal_bits(5, 64, threads=1)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_everything_is_made_on_the_device_of_the_weights(monkeypatch: pytest.MonkeyPatch, positions: str) -> None:
    # The device "meta" has shapes and no values, and refuses tensors of the CPU as a GPU does.
    monkeypatch.setattr(inference._Linear, "has_equal_bits", lambda self, size, block, threads: False)
    config = EncoderConfig(
        vocab_size=50,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        intermediate_size=64,
        max_length=16,
        positions=positions,
    )
    network, earlier = InferenceEncoder(TransformerEncoder(config).eval().to("meta")), {}
    tokens = torch.zeros(11, dtype=torch.int64, device="meta")
    with torch.inference_mode():
        hidden = network(tokens, [4, 4, 3], num_layers=2, earlier=earlier)
    assert {(each.device.type, each.shape) for each in (hidden, *earlier.values())} == {("meta", (11, 32))}
    assert list(earlier) == [0, 1]


def test_the_plain_products_give_the_same_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    network = encoder()
    packed = run(InferenceEncoder(network), texts(5, 9))
    monkeypatch.setattr(inference, "_has_packed_products", lambda: False)
    for first, second in zip(run(InferenceEncoder(network), texts(5, 9)), packed, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
