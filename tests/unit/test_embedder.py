from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ctxembed.embedder
from ctxembed.config import Pooling, PoolingConfig
from ctxembed.embedder import OVERLAP, Embedder, OnLong
from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint
from ctxembed.model.device import is_bfloat16_fast
from ctxembed.model.encoder import TransformerEncoder
from ctxembed.text import find_usage, word_spans
from ctxembed.tokenizer import SubwordTokenizer, TokenizerConfig, token_ranges
from ctxembed.types import LongTexts, TextEncoder, Usage, UsageEncoder, Vectors

TEXTS = [
    "The bank lent money to the old farmer.",
    "She sat on the bank of the river and read.",
    "bass",
    "A crane stood in the water near the bank, and the spring was cold!",
    "Farmers, bankers, riverbanks, the plants.",
]
WIDTH = 32 - 2  # tokens of one window
LONG = "the bank of the river and the old crane near the water, a spring of the plant. " * 6
CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def embedder(tiny_model: Path) -> Embedder:
    return Embedder.load(tiny_model, dtype="float32")


def embedder_with(checkpoint: Checkpoint, *, on_long: OnLong = "window", **pooling: Any) -> Embedder:
    return Embedder(replace(checkpoint, pooling=PoolingConfig(**pooling)), dtype="float32", on_long=on_long)


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path) -> Checkpoint:
    return load_checkpoint(tiny_model)


def hidden_states(checkpoint: Checkpoint, ids: Sequence[int], *, layer: int = -1) -> Vectors:
    """One window through the encoder itself: (T, D), special tokens included."""
    tokenizer = checkpoint.tokenizer
    row = torch.tensor([[tokenizer.cls_id, *ids, tokenizer.sep_id]])
    with torch.inference_mode():
        return checkpoint.encoder(row).hidden_states[layer][0].numpy()


def unit(vector: Vectors) -> Vectors:
    return vector / np.linalg.norm(vector)


def usages_of(text: str) -> list[Usage]:
    return [Usage(text, span.start, span.end) for span in word_spans(text)]


def cosines(one: Vectors, other: Vectors) -> Vectors:
    return (one * other).sum(axis=1)


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


# Long texts


def test_windows_lose_no_token_and_weigh_each_token(checkpoint: Checkpoint) -> None:
    embedder = embedder_with(checkpoint)
    (ids,) = checkpoint.tokenizer.encode_ids([LONG])
    assert len(ids) > 3 * WIDTH
    windows = list(ctxembed.embedder._cut(len(ids), WIDTH))
    means = [hidden_states(checkpoint, ids[start:end].tolist()).mean(axis=0) for start, end in windows]
    np.testing.assert_allclose(embedder.encode([LONG])[0], unit(np.sum(means, axis=0)), **CLOSE)
    assert embedder.long_texts == LongTexts(texts=1, lost_tokens=0)


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(1, 40))
def test_windows_cover_every_token_and_overlap_by_a_quarter(length: int, width: int) -> None:
    windows = list(ctxembed.embedder._cut(length, width))
    assert sorted({token for start, end in windows for token in range(start, end)}) == list(range(length))
    assert all(0 < end - start <= width for start, end in windows)
    if len(windows) > 1:
        assert {end - start for start, end in windows} == {width}
    for (_, end), (start, _) in itertools.pairwise(windows):
        assert end - start >= width // 4


def test_every_part_of_a_long_text_counts(embedder: Embedder) -> None:
    base = embedder.encode([LONG])
    words = word_spans(LONG)
    for span in (words[0], words[len(words) // 2], words[-1]):
        changed = LONG[: span.start] + "watch" + LONG[span.end :]
        assert np.abs(embedder.encode([changed]) - base).max() > 1e-4


def test_truncating_equals_encoding_the_beginning_and_is_counted(checkpoint: Checkpoint) -> None:
    embedder = embedder_with(checkpoint, on_long="truncate")
    encoded = checkpoint.tokenizer.encode_batch([LONG])
    beginning = LONG[: encoded.offsets[0][WIDTH - 1, 1]]
    assert len(checkpoint.tokenizer.encode_ids([beginning])[0]) == WIDTH
    vectors = embedder.encode([LONG, beginning, TEXTS[0]])
    np.testing.assert_allclose(vectors[0], vectors[1], **CLOSE)
    assert embedder.long_texts == LongTexts(texts=1, lost_tokens=len(encoded.ids[0]) - WIDTH)


def test_words_behind_a_cut_have_no_vector(checkpoint: Checkpoint) -> None:
    embedder = embedder_with(checkpoint, on_long="truncate")
    usages = usages_of(LONG)
    offsets = checkpoint.tokenizer.encode_batch([LONG]).offsets[0]
    kept = [usage.start < offsets[WIDTH - 1, 1] for usage in usages]
    vectors = embedder.encode_usages(usages)
    assert 0 < sum(kept) < len(usages)
    assert vectors.any(axis=1).tolist() == kept


def test_long_texts_are_refused_when_asked(checkpoint: Checkpoint) -> None:
    embedder = embedder_with(checkpoint, on_long="error")
    length = len(checkpoint.tokenizer.encode_ids([LONG])[0])
    message = f"a text has {length} tokens, the model takes {WIDTH}: shorten it, or use on_long window"
    with pytest.raises(InvalidInputError, match=message):
        embedder.encode([TEXTS[0], LONG])
    with pytest.raises(InvalidInputError, match=message):
        embedder.encode_usages([find_usage(LONG, "crane")])
    assert embedder.encode(TEXTS).any(axis=1).all()


def test_a_text_that_just_fits_is_not_long(checkpoint: Checkpoint) -> None:
    embedder = embedder_with(checkpoint, on_long="error")
    offsets = checkpoint.tokenizer.encode_batch([LONG]).offsets[0]
    assert embedder.encode([LONG[: offsets[WIDTH - 1, 1]]]).any()
    assert embedder.long_texts == LongTexts()


@pytest.mark.parametrize(("length", "windows"), [(WIDTH - 1, 1), (WIDTH, 1), (WIDTH + 1, 2), (2 * WIDTH, 3)])
def test_windows_begin_behind_the_last_token_that_fits(checkpoint: Checkpoint, length: int, windows: int) -> None:
    embedder = embedder_with(checkpoint)
    encoded = checkpoint.tokenizer.encode_batch([LONG])
    text = LONG[: encoded.offsets[0][length - 1, 1]]
    (ids,) = checkpoint.tokenizer.encode_ids([text])
    assert len(ids) == length
    cuts = list(ctxembed.embedder._cut(length, WIDTH))
    assert len(cuts) == windows
    # Special tokens stand in every window, and it weighs as many tokens as it has without them.
    means = [hidden_states(checkpoint, ids[a:b].tolist()).mean(axis=0) * (b - a) for a, b in cuts]
    np.testing.assert_allclose(embedder.encode([text])[0], unit(np.sum(means, axis=0)), **CLOSE)
    assert embedder.long_texts == LongTexts(texts=int(windows > 1), lost_tokens=0)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 300), st.integers(4, 40), st.data())
def test_every_place_is_read_in_the_window_where_it_stands_farthest_from_an_edge(
    length: int, width: int, data: st.DataObject
) -> None:
    windows = [ctxembed.embedder._Window(7, start, end) for start, end in ctxembed.embedder._cut(length, width)]
    start = data.draw(st.integers(0, length - 1))
    end = data.draw(st.integers(start + 1, min(length, start + (width + 1) // 2)))
    (chosen,) = ctxembed.embedder._central_windows(windows, np.array([[7, start, end, 0]]))
    contexts = [min(start - begin, stop - end) for _, begin, stop in windows]  # negative where it is cut
    assert contexts[chosen] == max(contexts)
    assert contexts[chosen] >= 0 or end - start > width // OVERLAP


# Words in context


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
        block = network.block

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
    windows = list(ctxembed.embedder._cut(len(ids), WIDTH))
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
