"""Texts longer than a window: nothing is lost, and each word is read where it has the most context."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxembed.embedder import Embedder
from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint
from ctxembed.text import find_usage, word_spans
from ctxembed.types import LongTexts
from ctxembed.windows import Window, central_windows, cut, held_whole

from .embedding_cases import CLOSE, LONG, TEXTS, WIDTH, embedder_with, hidden_states, unit, usages_of


@pytest.fixture(scope="module")
def embedder(tiny_model: Path) -> Embedder:
    return Embedder.load(tiny_model, dtype="float32")


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path) -> Checkpoint:
    return load_checkpoint(tiny_model)


def test_windows_lose_no_token_and_weigh_each_token(checkpoint: Checkpoint) -> None:
    embedder = embedder_with(checkpoint)
    (ids,) = checkpoint.tokenizer.encode_ids([LONG])
    assert len(ids) > 3 * WIDTH
    windows = list(cut(len(ids), WIDTH))
    means = [hidden_states(checkpoint, ids[start:end].tolist()).mean(axis=0) for start, end in windows]
    np.testing.assert_allclose(embedder.encode([LONG])[0], unit(np.sum(means, axis=0)), **CLOSE)
    assert embedder.long_texts == LongTexts(texts=1, lost_tokens=0)


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(1, 40))
def test_windows_cover_every_token_and_overlap_by_a_quarter(length: int, width: int) -> None:
    windows = list(cut(length, width))
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
    cuts = list(cut(length, WIDTH))
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
    windows = [Window(7, start, end) for start, end in cut(length, width)]
    start = data.draw(st.integers(0, length - 1))
    end = data.draw(st.integers(start + 1, min(length, start + held_whole(width))))
    (chosen,) = central_windows(windows, np.array([[7, start, end, 0]]))
    contexts = [min(start - begin, stop - end) for _, begin, stop in windows]  # negative where it is cut
    assert contexts[chosen] == max(contexts)
    assert contexts[chosen] >= 0
