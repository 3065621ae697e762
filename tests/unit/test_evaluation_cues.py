"""The rate of cues that come first: counted by hand, at chance for a scorer that knows nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ctxembed.errors import InvalidInputError
from ctxembed.evaluation.cues import (
    CueItem,
    attention_scores,
    cue_rates,
    last_layer,
    load_cues,
    measure_cues,
    nearest_scores,
)
from ctxembed.inspection.heads import rollout
from ctxembed.meaning.occlusion import context_words
from ctxembed.model.checkpoint import load_checkpoint
from ctxembed.text import is_content_word, word_form, word_spans
from ctxembed.types import Span, Usage, Vectors


class CueEncoder:
    """A vector turns one way or the other with the cue of its word, and no other word turns it."""

    name, dimension, fingerprint = "cue", 2, "cue"

    def __init__(self, items: Sequence[CueItem]) -> None:
        self.cues = {(item.usage.word, item.cue.text): 1.0 - 2.0 * (n % 2) for n, item in enumerate(items)}

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        places = [[self.cues.get((usage.word, span.text)) for span in word_spans(usage.text)] for usage in usages]
        angles = [next((place for place in found if place is not None), 0.0) for found in places]
        return np.array([(np.cos(angle), np.sin(angle)) for angle in angles], dtype=np.float32)


@pytest.fixture(scope="module")
def items() -> list[CueItem]:
    return load_cues()


def test_encoder_that_sees_nothing_but_the_cue_finds_every_one(items: list[CueItem]) -> None:
    rates = {rate.method: rate for rate in measure_cues(items, CueEncoder(items))}
    for method in ("deletion (--why)", "masking (--why --occlude mask)", "deletion, pull from the other use"):
        assert (rates[method].first, rates[method].low, rates[method].high) == (1, 1, 1)
    assert "attention, last layer" not in rates


def test_encoder_that_sees_nothing_is_at_chance(items: list[CueItem]) -> None:
    rates = {rate.method: rate for rate in measure_cues(items, CueEncoder([]))}
    chance = np.mean([1 / len(context_words(item.usage)) for item in items])
    content = [[s for s in context_words(item.usage) if is_content_word(word_form(s.text))] for item in items]
    for method in ("deletion (--why)", "chance"):
        assert rates[method].first == pytest.approx(chance)
        assert rates[method].first_of_content == pytest.approx(np.mean([1 / len(spans) for spans in content]))


def test_rate_equals_counting_and_its_interval_holds_it() -> None:
    text = "the river by the bank"
    items = [CueItem(str(n), f"w{n}", Usage(text, 17, 21), Span(4, 9, "river")) for n in range(10)]
    scores = [[0.1, 0.9, 0.2, 0.3]] * 6 + [[0.9, 0.5, 0.2, 0.3]] * 4
    (rate,) = cue_rates(items, {"mine": scores})
    assert (rate.first, rate.first_of_content, rate.sentences) == (0.6, 1.0, 10)
    assert 0.2 < rate.low < 0.6 < rate.high < 0.95


def test_nearest_word_is_counted_in_words_on_both_sides() -> None:
    assert nearest_scores([Usage("one two bank three, four", 8, 12)]) == [[-2, -1, -1, -2]]


def test_attention_of_the_word_is_read_from_its_own_rows(tiny_model: Path) -> None:
    import torch

    checkpoint = load_checkpoint(tiny_model)
    usage = Usage("She sat on the bank of the river", 15, 19)
    tokenizer = checkpoint.tokenizer
    encoded = tokenizer.encode_batch([usage.text])
    ids = [tokenizer.cls_id, *encoded.ids[0].tolist(), tokenizer.sep_id]
    with torch.inference_mode():
        weights = checkpoint.encoder.eval()(torch.tensor([ids]), need_weights=True).attentions[-1][0].mean(0).numpy()
    places = [(a, b) for a, b in encoded.offsets[0].tolist()]
    own = [n + 1 for n, (a, b) in enumerate(places) if a >= usage.start and b <= usage.end]
    expected = [
        sum(weights[own, n + 1].mean() for n, (a, b) in enumerate(places) if a >= span.start and b <= span.end)
        for span in context_words(usage)
    ]
    (found,) = attention_scores([usage], checkpoint, read=last_layer)
    assert found == pytest.approx(expected, abs=1e-5)
    assert len(found) == 7


def test_rollout_rows_sum_to_one_and_one_layer_is_half_its_attention() -> None:
    generator = np.random.default_rng(1)
    layers = [generator.dirichlet(np.ones(5), size=(2, 5)) for _ in range(3)]
    np.testing.assert_allclose(rollout(layers).sum(axis=1), 1)
    np.testing.assert_allclose(rollout(layers[:1]), 0.5 * layers[0].mean(axis=0) + 0.5 * np.eye(5))


def test_sentence_whose_cue_is_no_word_beside_the_target_is_refused(tmp_path: Path) -> None:
    row = {"id": "a", "word": "bank", "text": "the bank of", "start": 4, "end": 8, "cue_start": 4, "cue_end": 8}
    (tmp_path / "cues.jsonl").write_text(json.dumps(row))
    with pytest.raises(InvalidInputError, match="cues.jsonl:1: .*'bank' and 'bank' must be two words of 'the bank of'"):
        load_cues(tmp_path / "cues.jsonl")
