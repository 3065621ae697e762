"""Words and tokens of a text, in context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxembed.embedder import Embedder
from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint
from ctxembed.model.encoder import TransformerEncoder
from ctxembed.text import find_usage, word_spans
from ctxembed.tokenizer import SubwordTokenizer, TokenizerConfig, token_ranges
from ctxembed.types import Usage, Vectors
from ctxembed.windows import cut

from .embedding_cases import CLOSE, LONG, TEXTS, WIDTH, embedder_with, hidden_states, unit, usages_of


@pytest.fixture(scope="module")
def embedder(tiny_model: Path) -> Embedder:
    return Embedder.load(tiny_model, dtype="float32")


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path) -> Checkpoint:
    return load_checkpoint(tiny_model)


def test_a_word_is_the_mean_of_its_tokens(embedder: Embedder, checkpoint: Checkpoint) -> None:
    sizes = []
    for text in TEXTS:
        usages = usages_of(text)
        encoded = checkpoint.tokenizer.encode_batch([text])
        first, last = token_ranges(encoded.offsets[0], [u.start for u in usages], [u.end for u in usages])
        hidden = hidden_states(checkpoint, encoded.ids[0].tolist())[1:-1]
        expected = [unit(hidden[a:b].mean(axis=0)) for a, b in zip(first, last, strict=True)]
        np.testing.assert_allclose(embedder.encode_usages(usages), expected, **CLOSE)
        sizes += (last - first).tolist()
    assert {1, 2} < set(sizes)


def test_many_words_of_many_texts_come_back_in_the_order_given(embedder: Embedder) -> None:
    usages = [usage for text in TEXTS for usage in usages_of(text)]
    order = np.random.default_rng(1).permutation(len(usages))
    vectors = embedder.encode_usages(usages)
    shuffled = embedder.encode_usages([usages[i] for i in order])
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(usages), 32)
    np.testing.assert_allclose(shuffled, vectors[order], **CLOSE)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, **CLOSE)


def test_equal_usages_have_equal_vectors(embedder: Embedder) -> None:
    usage = find_usage(TEXTS[1], "bank")
    vectors = embedder.encode_usages([usage, find_usage(TEXTS[0], "bank"), usage])
    assert np.array_equal(vectors[0], vectors[2])


def test_one_word_has_another_vector_in_another_context(embedder: Embedder) -> None:
    one, other = embedder.encode_usages([find_usage(TEXTS[0], "bank"), find_usage(TEXTS[1], "bank")])
    assert one @ other < 0.99


@pytest.mark.parametrize("layer", [0, 1, 2, -1, -2, -3])
def test_a_layer_is_read_where_it_was_asked_for(embedder: Embedder, checkpoint: Checkpoint, layer: int) -> None:
    (ids,) = checkpoint.tokenizer.encode_ids(["the bank"])
    hidden = hidden_states(checkpoint, ids.tolist(), layer=layer)
    (vector,) = embedder.encode_usages([Usage("the bank", 4, 8)], layer=layer)
    np.testing.assert_allclose(vector, unit(hidden[2:-1].mean(axis=0)), **CLOSE)


def test_the_layer_is_the_choice_of_the_model_by_default(checkpoint: Checkpoint) -> None:
    embedder = embedder_with(checkpoint, usage_layer=1)
    usages = usages_of(TEXTS[0])
    assert np.array_equal(embedder.encode_usages(usages), embedder.encode_usages(usages, layer=1))
    assert not np.allclose(embedder.encode_usages(usages), embedder.encode_usages(usages, layer=2))


def mean_of_layers(checkpoint: Checkpoint, text: str, usages: list[Usage], layers: Sequence[int]) -> Vectors:
    """Computed layer by layer, through the encoder itself."""
    encoded = checkpoint.tokenizer.encode_batch([text])
    first, last = token_ranges(encoded.offsets[0], [u.start for u in usages], [u.end for u in usages])
    states = [hidden_states(checkpoint, encoded.ids[0].tolist(), layer=layer)[1:-1] for layer in layers]
    means = [[unit(state[a:b].mean(axis=0)) for state in states] for a, b in zip(first, last, strict=True)]
    return np.array([unit(np.mean(each, axis=0)) for each in means])


@pytest.mark.parametrize("layers", [(0, 1), (-1, 0), (2, 1, 0), [1, 2]])
def test_several_layers_are_the_mean_of_their_unit_vectors(
    embedder: Embedder, checkpoint: Checkpoint, layers: Sequence[int]
) -> None:
    for text in TEXTS:
        usages = usages_of(text)
        expected = mean_of_layers(checkpoint, text, usages, layers)
        np.testing.assert_allclose(embedder.encode_usages(usages, layer=layers), expected, **CLOSE)


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_one_layer_in_a_list_is_that_layer_to_the_last_bit(embedder: Embedder, layer: int) -> None:
    usages = usages_of(TEXTS[0])
    alone = embedder.encode_usages(usages, layer=layer)
    np.testing.assert_array_equal(embedder.encode_usages(usages, layer=[layer]), alone)


def test_several_layers_take_one_pass_of_the_network(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    network, passes = embedder._network, []

    class Counted:
        block, share = network.block, network.share

        def __call__(self, *arguments: Any, **options: Any) -> torch.Tensor:
            passes.append(options["num_layers"])
            return network(*arguments, **options)

    monkeypatch.setattr(embedder, "_network", Counted())
    embedder.encode_usages([usage for text in TEXTS for usage in usages_of(text)], layer=(0, 1))
    assert passes == [1]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ((), "layer names no layer"),
        ((1, 3), r"layer = 3: tiny has layers 0 \(embedding\) to 2"),
        ((2, -1), r"layer = \(2, -1\) names one layer twice"),
    ],
)
def test_layers_that_make_no_mean_are_refused(embedder: Embedder, layer: Sequence[int], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        embedder.encode_usages(usages_of(TEXTS[0]), layer=layer)


@pytest.mark.parametrize("layer", [3, -4, 99])
@pytest.mark.parametrize("usages", [[], [Usage("the bank", 4, 8)]])
def test_a_layer_that_does_not_exist_is_refused(embedder: Embedder, layer: int, usages: list[Usage]) -> None:
    message = rf"layer = {layer}: tiny has layers 0 \(embedding\) to 2, or -1 for the last"
    with pytest.raises(InvalidInputError, match=message):
        embedder.encode_usages(usages, layer=layer)


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (4, 4), (5, 4), (4, 9), (8, 9)])
def test_a_stretch_outside_its_text_is_refused(embedder: Embedder, start: int, end: int) -> None:
    message = f"usage 1 is characters {start} to {end} of a text of 8: mark a word inside it"
    with pytest.raises(InvalidInputError, match=message):
        embedder.encode_usages([Usage("the bank", 4, 8), Usage("the bank", start, end)])


def test_a_stretch_without_any_token_is_a_zero_row(embedder: Embedder) -> None:
    vectors = embedder.encode_usages([Usage("the  bank", 3, 5), Usage("the  bank", 5, 9)])
    assert vectors.any(axis=1).tolist() == [False, True]


def test_words_deep_in_a_long_text_have_a_vector_from_a_window_with_context(
    embedder: Embedder, checkpoint: Checkpoint
) -> None:
    usages = usages_of(LONG)
    vectors = embedder.encode_usages(usages)
    encoded = checkpoint.tokenizer.encode_batch([LONG])
    ids, offsets = encoded.ids[0], encoded.offsets[0]
    windows = list(cut(len(ids), WIDTH))
    first, last = token_ranges(offsets, [u.start for u in usages], [u.end for u in usages])
    for vector, start, end in zip(vectors, first, last, strict=True):
        # The window in which the word has most tokens on its shorter side.
        begin, stop = max(windows, key=lambda window: min(start - window[0], window[1] - end))
        assert begin <= start < end <= stop
        assert min(start - begin, stop - end) >= min(WIDTH // 4 // 2 - 2, start, len(ids) - end)
        hidden = hidden_states(checkpoint, ids[begin:stop].tolist())[1:-1]
        np.testing.assert_allclose(vector, unit(hidden[start - begin : end - begin].mean(axis=0)), **CLOSE)


def test_neighbours_of_a_word_deep_in_a_long_text_change_its_vector(embedder: Embedder) -> None:
    spans = word_spans(LONG)
    for number in (len(spans) // 2, len(spans) - 2):
        span, neighbour = spans[number], spans[number + 1]
        changed = LONG[: neighbour.start] + "watch" + LONG[neighbour.end :]
        one, other = embedder.encode_usages([Usage(text, span.start, span.end) for text in (LONG, changed)])
        assert np.abs(one - other).max() > 1e-3


# Every word and every token of a text


def test_encode_words_gives_every_word_with_its_vector(embedder: Embedder) -> None:
    spans, vectors = embedder.encode_words(TEXTS[1])
    assert spans == word_spans(TEXTS[1])
    assert np.array_equal(vectors, embedder.encode_usages(usages_of(TEXTS[1])))


def test_encode_tokens_gives_every_token_with_its_vector(embedder: Embedder, checkpoint: Checkpoint) -> None:
    spans, vectors = embedder.encode_tokens(TEXTS[4], layer=1)
    (ids,) = checkpoint.tokenizer.encode_ids([TEXTS[4]])
    assert [span.text.lower() for span in spans] == [checkpoint.tokenizer.token(i).removeprefix("##") for i in ids]
    assert all(TEXTS[4][span.start : span.end] == span.text for span in spans)
    hidden = hidden_states(checkpoint, ids.tolist(), layer=1)[1:-1]
    np.testing.assert_allclose(vectors, [unit(row) for row in hidden], **CLOSE)


@pytest.mark.parametrize("text", ["", "  "])
def test_a_text_without_words_gives_no_span(embedder: Embedder, text: str) -> None:
    for found in (embedder.encode_words(text), embedder.encode_tokens(text)):
        assert found.spans == []
        assert found.vectors.shape == (0, 32)


# Any Unicode

ANY_TEXT = st.lists(
    st.one_of(
        st.text(max_size=8),  # any character but surrogates
        st.characters(categories=["Cs", "Cc", "Cf", "Mn", "Co", "Cn"]),
        st.sampled_from(
            ["👩\u200d👩\u200d👧", "e\u0301", "日本語", "שלום", "سَلام", "ﷺ", "İ", "ß", "ﬁ", "\u3164", "x" * 70]
        ),
        st.sampled_from(["the ", "bank ", " river", "don't ", "\t", "\u00a0", "\u2028"]),
    ),
    max_size=8,
).map("".join)


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "unigram"])
def any_kind(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> Embedder:
    """The tiny model with a tokenizer of each kind; its weights mean nothing then, its spans do."""
    sizes = {"wordpiece": 110, "bpe": 300, "unigram": 60}
    config = TokenizerConfig(kind=request.param, vocab_size=sizes[request.param])
    tokenizer = SubwordTokenizer.train(TEXTS, config=config)
    torch.manual_seed(1)
    encoder = TransformerEncoder(replace(checkpoint.encoder.config, vocab_size=len(tokenizer)))
    return Embedder(replace(checkpoint, encoder=encoder, tokenizer=tokenizer, head=None), dtype="float32")


@settings(deadline=None, max_examples=150)
@given(ANY_TEXT)
def test_every_word_of_any_text_has_its_exact_place_and_a_vector(any_kind: Embedder, text: str) -> None:
    spans, vectors = any_kind.encode_words(text)
    assert spans == word_spans(text)
    assert all(text[span.start : span.end] == span.text for span in spans)
    assert vectors.shape == (len(spans), 32)
    encoded = any_kind.tokenizer.encode_batch([text])
    first, last = token_ranges(encoded.offsets[0], [s.start for s in spans], [s.end for s in spans])
    assert vectors.any(axis=1).tolist() == (first < last).tolist()  # zero only where there is no token at all
    np.testing.assert_allclose(np.linalg.norm(vectors[first < last], axis=1), 1, **CLOSE)


@settings(deadline=None, max_examples=100)
@given(ANY_TEXT)
def test_every_token_of_any_text_has_its_exact_place_and_a_vector(any_kind: Embedder, text: str) -> None:
    spans, vectors = any_kind.encode_tokens(text)
    assert all(text[span.start : span.end] == span.text != "" for span in spans)
    assert vectors.any(axis=1).all()


@settings(deadline=None, max_examples=100)
@given(ANY_TEXT)
def test_no_word_of_any_text_is_without_a_token(any_kind: Embedder, text: str) -> None:
    spans, vectors = any_kind.encode_words(text)
    assert [span.text for span, vector in zip(spans, vectors, strict=True) if not vector.any()] == []


def test_a_word_of_unknown_characters_has_the_vector_of_the_unknown_token(
    embedder: Embedder, checkpoint: Checkpoint
) -> None:
    text = "the 日本語 bank"
    (ids,) = checkpoint.tokenizer.encode_ids([text])
    assert ids[1] == checkpoint.tokenizer.unknown_id
    (vector,) = embedder.encode_usages([Usage(text, 4, 7)])
    np.testing.assert_allclose(vector, unit(hidden_states(checkpoint, ids.tolist())[2]), **CLOSE)
