from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ctxembed.embedder
from ctxembed.config import Pooling
from ctxembed.embedder import Embedder
from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint
from ctxembed.model.device import is_bfloat16_fast
from ctxembed.tokenizer import SubwordTokenizer
from ctxembed.types import TextEncoder, Usage, UsageEncoder

from .embedding_cases import CLOSE, LONG, TEXTS, cosines, embedder_with, hidden_states, unit, usages_of


@pytest.fixture(scope="module")
def embedder(tiny_model: Path) -> Embedder:
    return Embedder.load(tiny_model, dtype="float32")


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path) -> Checkpoint:
    return load_checkpoint(tiny_model)


# Whole texts


def test_vectors_are_float32_of_length_one_in_the_order_given(embedder: Embedder) -> None:
    vectors = embedder.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), embedder.dimension) == (5, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, **CLOSE)
    np.testing.assert_allclose(embedder.encode(TEXTS[::-1]), vectors[::-1], **CLOSE)


def test_different_texts_have_different_vectors(embedder: Embedder) -> None:
    vectors = embedder.encode(TEXTS)
    assert (vectors @ vectors.T)[~np.eye(5, dtype=bool)].max() < 0.99


@pytest.mark.parametrize("how", ["mean", "cls", "max"])
def test_a_sentence_vector_is_the_pooled_last_layer(checkpoint: Checkpoint, how: Pooling) -> None:
    vectors = embedder_with(checkpoint, sentence=how).encode(TEXTS)
    for vector, ids in zip(vectors, checkpoint.tokenizer.encode_ids(TEXTS), strict=True):
        hidden = hidden_states(checkpoint, ids.tolist())
        expected = {"mean": hidden.mean(axis=0), "cls": hidden[0], "max": hidden.max(axis=0)}[how]
        np.testing.assert_allclose(vector, unit(expected), **CLOSE)


@pytest.mark.parametrize("empty", ["", " ", "\n\t ", "\u00a0\u3000"])
def test_an_empty_or_blank_text_is_a_zero_row_among_others(embedder: Embedder, empty: str) -> None:
    vectors = embedder.encode([TEXTS[0], empty, TEXTS[1]])
    assert not vectors[1].any()
    np.testing.assert_allclose(vectors[[0, 2]], embedder.encode(TEXTS[:2]), **CLOSE)


def test_no_text_gives_no_row(embedder: Embedder) -> None:
    assert embedder.encode([]).shape == (0, 32)
    assert embedder.encode_usages([]).shape == (0, 32)


def test_a_text_has_the_same_vector_to_the_last_bit_whatever_its_neighbours(embedder: Embedder) -> None:
    alone = np.concatenate([embedder.encode([text]) for text in TEXTS])
    together = embedder.encode([*TEXTS, *TEXTS, LONG])
    np.testing.assert_array_equal(together[:5], alone)
    np.testing.assert_array_equal(together[5:10], alone)


def test_more_texts_than_one_chunk_come_back_in_order(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    sentences, usages = embedder.encode(TEXTS), [usage for text in TEXTS for usage in usages_of(text)]
    words = embedder.encode_usages(usages)
    monkeypatch.setattr(ctxembed.embedder, "CHUNK_TEXTS", 2)
    np.testing.assert_allclose(embedder.encode(TEXTS), sentences, **CLOSE)
    np.testing.assert_allclose(embedder.encode_usages(usages), words, **CLOSE)


def test_a_prompt_stands_before_each_text(embedder: Embedder) -> None:
    by_name, by_words = embedder.encode(TEXTS, prompt="query"), embedder.encode(TEXTS, prompt="find the ")
    expected = embedder.encode(["find the " + text for text in TEXTS])
    np.testing.assert_allclose(by_name, expected, **CLOSE)
    np.testing.assert_allclose(by_words, expected, **CLOSE)
    assert cosines(by_name, embedder.encode(TEXTS)).max() < 0.999


def test_the_default_prompt_stands_before_each_text_unless_another_is_asked_for(tiny_model: Path) -> None:
    checkpoint = replace(load_checkpoint(tiny_model), default_prompt="query")
    asking, plain = Embedder(checkpoint), Embedder.load(tiny_model)
    np.testing.assert_array_equal(asking.encode(TEXTS), plain.encode(TEXTS, prompt="query"))
    np.testing.assert_array_equal(asking.encode(TEXTS, prompt=""), plain.encode(TEXTS))


def test_a_prompt_before_an_empty_text_leaves_it_a_zero_row(embedder: Embedder) -> None:
    assert not embedder.encode(["", " "], prompt="query").any()


def test_one_string_is_refused(embedder: Embedder) -> None:
    with pytest.raises(InvalidInputError, match=r"a list of texts, not one string: write encode\(\[text\]\)\[0\]"):
        embedder.encode("the bank")


@pytest.mark.parametrize("wrong", [None, 3, b"bank", float("nan")])
def test_what_is_no_string_is_refused_with_its_number(embedder: Embedder, wrong: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"text number 1 is {type(wrong).__name__} .* need a string"):
        embedder.encode(["the bank", wrong])


# The embedder itself


def test_both_protocols_are_satisfied(embedder: Embedder) -> None:
    assert isinstance(embedder, TextEncoder)
    assert isinstance(embedder, UsageEncoder)


def test_its_properties_are_those_of_the_model(embedder: Embedder, checkpoint: Checkpoint) -> None:
    found = (embedder.name, embedder.dimension, embedder.num_layers, embedder.max_length, embedder.fingerprint)
    assert found == ("tiny", 32, 2, 32, checkpoint.fingerprint)
    assert isinstance(embedder.tokenizer, SubwordTokenizer)


def test_bfloat16_vectors_are_close_to_those_in_float32(tiny_model: Path, embedder: Embedder) -> None:
    if not is_bfloat16_fast(torch.device("cpu")):
        pytest.skip("this processor does not multiply bfloat16 fast, so auto never chooses it")
    half = Embedder.load(tiny_model)
    usages = [usage for text in TEXTS for usage in usages_of(text)]
    assert half.encode(TEXTS).dtype == half.encode_usages(usages).dtype == np.float32
    assert cosines(half.encode(TEXTS), embedder.encode(TEXTS)).min() > 0.999
    assert cosines(half.encode_usages(usages), embedder.encode_usages(usages)).min() > 0.999
    assert half.fingerprint == embedder.fingerprint


def test_embedding_leaves_the_checkpoint_as_it_was(checkpoint: Checkpoint) -> None:
    checkpoint.encoder.train()
    Embedder(checkpoint, dtype="bfloat16").encode(TEXTS)
    assert checkpoint.encoder.training
    assert {parameter.dtype for parameter in checkpoint.encoder.parameters()} == {torch.float32}
    checkpoint.encoder.eval()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"on_long": "cut"}, "on_long = 'cut': must be one of window, truncate, error"),
        ({"dtype": "int8"}, "dtype 'int8': choose auto, float32 or bfloat16"),
        ({"device": "abacus"}, "device 'abacus' is unknown: choose auto, cpu, cuda, mps"),
    ],
)
def test_an_unknown_choice_is_refused(tiny_model: Path, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Embedder.load(tiny_model, **choice)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a ctxembed model"):
        Embedder.load(tmp_path)
    with pytest.raises(MissingInputError, match="nowhere does not exist"):
        Embedder.load(tmp_path / "nowhere")


def test_the_same_text_gives_the_same_vector_every_time(tiny_model: Path, embedder: Embedder) -> None:
    again = Embedder.load(tiny_model, dtype="float32")
    assert np.array_equal(again.encode(TEXTS), embedder.encode(TEXTS))


def test_a_stretch_longer_than_a_window_counts_to_its_last_word(embedder: Embedder) -> None:
    words = " ".join(TEXTS * 8)
    assert len(embedder.tokenizer.encode_ids([words])[0]) > 2 * embedder.max_length
    changed = words[: words.rindex(" ")] + " river"
    one, other = embedder.encode_usages([Usage(words, 0, len(words)), Usage(changed, 0, len(changed))])
    assert not np.allclose(one, other, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm([one, other], axis=1), 1, **CLOSE)
