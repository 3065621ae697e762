"""A sentence inside a model: the recorded steps are those of the encoder, and words are sums and means of tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ctxembed.config import EncoderConfig
from ctxembed.embedder import Embedder
from ctxembed.errors import InvalidInputError
from ctxembed.inspection.heads import (
    LOOKS,
    by_words,
    entropies,
    head_profiles,
    layer_vectors,
    leaving_the_static,
    rollout,
)
from ctxembed.inspection.trace import Unit, trace_sentence
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint
from ctxembed.model.encoder import TransformerEncoder
from ctxembed.text import word_spans
from ctxembed.types import Usage

TEXT = "The bank, unbelievably near the river, lent money to the bank."


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Checkpoint:
    return load_checkpoint(tiny_model)


def variant(model: Checkpoint, **settings: Any) -> Checkpoint:
    """The tiny model's shape with some settings changed, and new weights."""
    config = replace(model.encoder.config, max_length=64, **settings)
    torch.manual_seed(3)
    encoder = TransformerEncoder(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return replace(model, encoder=encoder)


SHAPES: list[dict[str, Any]] = [
    {"positions": positions, "norm": norm, "feed_forward": kind}
    for positions, norm, kind in [
        ("learned", "post", "gelu"),
        ("rotary", "pre", "gelu"),
        ("sinusoidal", "pre", "swiglu"),
    ]
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape["positions"])
def test_steps_equal_the_encoder_and_add_up(model: Checkpoint, shape: dict[str, Any]) -> None:
    model = variant(model, **shape)
    trace = trace_sentence(model, TEXT)
    ids = model.tokenizer.encode_ids([TEXT])[0].tolist()
    row = torch.tensor([[model.tokenizer.cls_id, *ids, model.tokenizer.sep_id]])
    with torch.no_grad():
        output = model.encoder(row, need_weights=True)
    assert len(trace.layers) == 2
    for number, steps in enumerate(trace.layers):
        layer: Any = model.encoder.layers[number]
        attention = steps.attention
        np.testing.assert_array_equal(attention.weights, output.attentions[number][0].numpy())
        np.testing.assert_array_equal(steps.given, output.hidden_states[number][0].numpy())
        np.testing.assert_allclose(attention.weights @ attention.value, attention.mixed, atol=1e-5)
        np.testing.assert_allclose(np.concatenate(list(attention.mixed), axis=1), attention.joined, atol=1e-5)
        np.testing.assert_allclose(steps.residual, steps.given + attention.output, atol=1e-5)
        with torch.no_grad():
            outer = layer.feed_forward.outer(torch.from_numpy(steps.inner)).numpy()
        np.testing.assert_allclose(outer, steps.feed_forward, atol=1e-5)
        total = (steps.residual if trace.norm_first else steps.fed) + steps.feed_forward
        if not trace.norm_first:
            total = layer.feed_forward_norm(torch.from_numpy(total)).detach().numpy()
        np.testing.assert_allclose(total, steps.output, atol=1e-5)
    np.testing.assert_array_equal(trace.hidden_states[-1], output.last[0].numpy())


def test_embedding_is_token_and_place_normalised(model: Checkpoint) -> None:
    steps = trace_sentence(model, "The bank lent money.").embedding
    assert steps.position is not None
    norm = model.encoder.embedding.norm
    total = torch.from_numpy(steps.token + steps.position)
    expected = functional.layer_norm(total, (32,), norm.weight, norm.bias, norm.eps).detach().numpy()
    np.testing.assert_allclose(steps.output, expected, atol=1e-6)


def test_rotary_models_add_no_place(model: Checkpoint) -> None:
    assert trace_sentence(variant(model, positions="rotary", norm="pre"), TEXT).embedding.position is None


def test_units_cover_all_tokens_in_order_and_split_words_are_one(model: Checkpoint) -> None:
    trace = trace_sentence(variant(model), TEXT)
    bounds = [place for unit in trace.units for place in (unit.first, unit.end)]
    assert bounds[0] == 0
    assert bounds[-1] == len(trace.tokens)
    assert bounds[1:-1:2] == bounds[2::2]
    words = [unit for unit in trace.units if unit.kind == "word"]
    assert [unit.text for unit in words] == [span.text for span in word_spans(TEXT)]
    assert max(unit.end - unit.first for unit in words) > 1
    assert [unit.text for unit in trace.units if unit.kind == "mark"] == [",", ",", "."]


@given(text=st.text(max_size=40))
@settings(max_examples=40, deadline=None)
def test_units_cover_all_tokens_of_any_text(model: Checkpoint, text: str) -> None:
    if not 0 < len(model.tokenizer.encode_ids([text])[0]) <= 30:
        return
    trace = trace_sentence(model, text)
    assert [place for unit in trace.units for place in range(unit.first, unit.end)] == list(range(len(trace.tokens)))
    for unit in trace.units:
        assert unit.kind == "special" or trace.text[unit.start :].startswith(unit.text)


@pytest.mark.parametrize(("text", "message"), [("", "has no token"), ("bank " * 31, "31 tokens, tiny sees 30 at once")])
def test_texts_that_do_not_fit_are_refused(model: Checkpoint, text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        trace_sentence(model, text)


def test_word_weights_equal_loops() -> None:
    units = [Unit("a", 0, 2, "word"), Unit("b", 2, 3, "word"), Unit("c", 3, 6, "word")]
    weights = np.random.default_rng(1).dirichlet(np.ones(6), size=(2, 6))
    expected = np.zeros((2, 3, 3))
    for head in range(2):
        for i, asking in enumerate(units):
            for j, there in enumerate(units):
                for query in range(asking.first, asking.end):
                    for key in range(there.first, there.end):
                        expected[head, i, j] += weights[head, query, key] / (asking.end - asking.first)
    np.testing.assert_allclose(by_words(weights, units), expected, atol=1e-12)
    np.testing.assert_allclose(by_words(weights, units).sum(axis=-1), 1, atol=1e-12)


def test_rollout_equals_the_product_by_hand() -> None:
    first, second = np.random.default_rng(2).dirichlet(np.ones(4), size=(2, 3, 4))
    mean_first, mean_second = (each.sum(axis=0) / 3 for each in (first, second))
    expected = (np.eye(4) + mean_second) / 2 @ ((np.eye(4) + mean_first) / 2)
    np.testing.assert_allclose(rollout([first, second]), expected, atol=1e-12)


def test_entropy_is_zero_at_one_token_and_log_t_at_all() -> None:
    rows = np.array([[1.0, 0, 0, 0], [0.25] * 4])
    np.testing.assert_allclose(entropies(rows), [0, np.log(4)], atol=1e-12)


@pytest.mark.parametrize(("look", "shift"), [("previous", -1), ("next", 1), ("itself", 0)])
def test_profile_names_where_a_head_looks(model: Checkpoint, look: str, shift: int) -> None:
    trace = trace_sentence(model, "the bank was cold in the river .")
    size = len(trace.tokens)
    assert all(unit.end - unit.first == 1 for unit in trace.units)
    weights = np.zeros((2, size, size))
    weights[:, np.arange(size), np.clip(np.arange(size) + shift, 0, size - 1)] = 1
    steps = replace(trace.layers[0], attention=replace(trace.layers[0].attention, weights=weights))
    profile = head_profiles(replace(trace, layers=(steps,)))[0]
    assert profile.looks_at == look
    assert profile.entropy == 0
    assert profile.shares[LOOKS.index(look)] >= 0.85
    assert sum(profile.shares) == pytest.approx(1)


def test_profile_knows_repeated_words_and_delimiters(model: Checkpoint) -> None:
    trace = trace_sentence(model, "the bank the bank .")
    words = [unit for unit in trace.units if unit.kind == "word"]
    size = len(trace.tokens)
    repeats, ends = np.zeros((2, 1, size, size))
    repeats[0, np.arange(size), [0, 3, 4, 1, 2, 5, 6]] = 1
    ends[0, :, -1] = 1
    assert len(words) == 4
    steps = trace.layers[0]
    weights = np.concatenate([repeats, ends])
    both = replace(trace, layers=(replace(steps, attention=replace(steps.attention, weights=weights)),))
    assert [profile.looks_at for profile in head_profiles(both)] == ["same word", "delimiter"]


def test_layer_vectors_are_those_that_embedding_gives(model: Checkpoint, tiny_model: Path) -> None:
    text = "She sat near the unbelievable bank of the river."
    trace = trace_sentence(model, text)
    embedder = Embedder.load(tiny_model, dtype="float32")
    for word in ("unbelievable", "bank"):
        start = text.index(word)
        vectors = layer_vectors(trace, trace.unit_of(start))
        for layer, vector in enumerate(vectors):
            expected = embedder.encode_usages([Usage(text, start, start + len(word))], layer=layer)[0]
            np.testing.assert_allclose(vector / np.linalg.norm(vector), expected, atol=1e-5)
        assert leaving_the_static(vectors)[0] == pytest.approx(1, abs=1e-6)
        assert leaving_the_static(vectors)[-1] < 0.99


def test_config_of_the_shapes_is_what_the_tests_say() -> None:
    assert {shape["positions"] for shape in SHAPES} == {"learned", "rotary", "sinusoidal"}
    assert EncoderConfig(vocab_size=9).positions == "learned"
