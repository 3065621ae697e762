"""Does what is said to matter matter? Sentences with an ambiguous word and the one cue that decides its sense.

The sentences that ship come in pairs that differ in the cue alone ("the *cashier* told us to wait ... beside the bank",
"the *angler* ..."), so that the cue is known to be the word that decides. A method gives every context word a score;
counted is how often the cue's is the highest. Letters: T tokens, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxembed import runtime
from ctxembed.evaluation.jsonl import Row, load_rows
from ctxembed.inspection.heads import rollout
from ctxembed.meaning.occlusion import Occlusion, context_words, explain_usages
from ctxembed.runtime import existing
from ctxembed.text import is_content_word, word_form
from ctxembed.tokenizer import token_ranges
from ctxembed.types import Span, Usage, UsageEncoder

if TYPE_CHECKING:
    from ctxembed.model.checkpoint import Checkpoint

Scores: TypeAlias = list[list[float]]
"""A score for each context word (in reading order) of each use."""
TIE_DECIMALS = 6
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class CueItem:
    """A use of an ambiguous word, and the word of its context that decides the sense."""

    id: str
    word: str
    usage: Usage
    cue: Span


@dataclass(frozen=True, kw_only=True)
class CueRate:
    """How often a method puts the cue first; methods that give equal scores share the first place."""

    method: str
    sentences: int
    first: float
    """Share of sentences whose cue is first of all context words, in [0, 1]."""
    low: float
    """Bounds of the 95 % interval, from a bootstrap over words: both sentences of a pair are drawn together."""
    high: float
    first_of_content: float
    """The same among words that are no function words."""
    content_low: float
    content_high: float


def load_cues(path: Path | None = None) -> list[CueItem]:
    """Read sentences with cues, by default those that ship.

    Raises:
        InvalidInputError: If a row cannot be used: its file and line, and why.
    """
    return load_rows(existing(path or runtime.data_directory() / "benchmarks" / "cues" / "cues.jsonl"), _item)


def measure_cues(
    items: Sequence[CueItem], encoder: UsageEncoder, *, layer: int | None = None, checkpoint: Checkpoint | None = None
) -> list[CueRate]:
    """Measure occlusion by this encoder, and beside it attention, the nearest and longest word, chance.

    Args:
        items: Sentences with cues.
        encoder: What makes the vectors.
        layer: Where they are read; the encoder's choice by default.
        checkpoint: The encoder's network, for its attention weights; without it that baseline is left out.
    """
    usages = [item.usage for item in items]
    methods: dict[str, Scores] = {
        "deletion (--why)": occlusion_scores(usages, encoder, how="delete", layer=layer),
        "masking (--why --occlude mask)": occlusion_scores(usages, encoder, how="mask", layer=layer),
    }
    methods["deletion, pull from the other use"] = contrast_scores(items, encoder, layer=layer)
    if checkpoint is not None:
        methods["attention, last layer"] = attention_scores(usages, checkpoint, read=last_layer)
        methods["attention, rollout"] = attention_scores(usages, checkpoint, read=rollout)
    methods["nearest word"] = nearest_scores(usages)
    methods["longest word"] = [[float(len(span.text)) for span in context_words(usage)] for usage in usages]
    methods["chance"] = [[0.0] * len(context_words(usage)) for usage in usages]
    return cue_rates(items, methods)


def cue_rates(items: Sequence[CueItem], methods: Mapping[str, Scores], *, seed: int = 1) -> list[CueRate]:
    """Count how often each method scores the cue highest.

    Args:
        items: Sentences with cues, at least one.
        methods: For each method a score of every context word of every sentence, higher for more important.
        seed: Of the bootstrap.
    """
    rates = []
    for method, scores in methods.items():
        every, content = (
            np.array([_hit(item, each, content=only) for item, each in zip(items, scores, strict=True)])
            for only in (False, True)
        )
        words = [item.word for item in items]
        (low, high), (content_low, content_high) = (_interval(hits, words, seed=seed) for hits in (every, content))
        rates.append(
            CueRate(
                method=method,
                sentences=len(items),
                first=float(every.mean()),
                low=low,
                high=high,
                first_of_content=float(content.mean()),
                content_low=content_low,
                content_high=content_high,
            )
        )
    return rates


def occlusion_scores(
    usages: Sequence[Usage], encoder: UsageEncoder, *, how: Occlusion, layer: int | None = None
) -> Scores:
    """Return how far the vector moves without each context word."""
    explained = explain_usages(usages, encoder=encoder, how=how, layer=layer)
    return [[each.move for each in sorted(influences, key=lambda each: each.start)] for influences in explained]


def contrast_scores(items: Sequence[CueItem], encoder: UsageEncoder, *, layer: int | None = None) -> Scores:
    """Return how far each context word pulls a use away from the other use of its word, as --why says of two uses.

    This is easier than finding the cue in one sentence: what the two share cannot part them. A use that has no partner
    gets equal scores.
    """
    partner = {
        number: other
        for number, item in enumerate(items)
        for other, second in enumerate(items)
        if second.word == item.word and second.id != item.id
    }
    scores = []
    for number, influences in enumerate(explain_usages([item.usage for item in items], encoder=encoder, layer=layer)):
        other = partner.get(number)
        ordered = sorted(influences, key=lambda each: each.start)
        pulls = [0.0 if other is None else each.towards[other] for each in ordered]
        scores.append([-(pull or 0.0) for pull in pulls])
    return scores


def nearest_scores(usages: Sequence[Usage]) -> Scores:
    """Return minus the distance, in words, of each context word from the word in question."""
    scores = []
    for usage in usages:
        spans = context_words(usage)
        num_before = sum(span.end <= usage.start for span in spans)
        scores.append([-float(abs(n - num_before + (n >= num_before))) for n in range(len(spans))])
    return scores


Read: TypeAlias = Callable[[Sequence[NDArray[Any]]], NDArray[Any]]


def attention_scores(usages: Sequence[Usage], checkpoint: Checkpoint, *, read: Read) -> Scores:
    """Return how much attention the word in question gives each context word: its tokens' mean, summed over theirs.

    Args:
        usages: Texts that fit one window.
        checkpoint: The network.
        read: Makes one matrix (T, T) of the weights (H, T, T) of every layer.
    """
    import torch

    tokenizer, network = checkpoint.tokenizer, checkpoint.encoder.eval()
    scores = []
    for usage in usages:
        encoded = tokenizer.encode_batch([usage.text])
        ids = [tokenizer.cls_id, *encoded.ids[0].tolist(), tokenizer.sep_id]
        with torch.inference_mode():
            output = network(torch.tensor([ids]), need_weights=True)
        weights = read([layer[0].double().numpy() for layer in output.attentions])
        spans = [Span(usage.start, usage.end, usage.word), *context_words(usage)]
        starts, ends = [span.start for span in spans], [span.end for span in spans]
        (first, *firsts), (last, *lasts) = (
            (side + 1).tolist()
            for side in token_ranges(encoded.offsets[0], starts, ends)  # + 1 for the special token
        )
        row = weights[first:last].mean(axis=0)  # (T,)
        scores.append([float(row[a:b].sum()) for a, b in zip(firsts, lasts, strict=True)])
    return scores


def last_layer(attentions: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Average the heads of the last layer, (T, T)."""
    mean: NDArray[np.float64] = attentions[-1].mean(axis=0)
    return mean


def _hit(item: CueItem, scores: Sequence[float], *, content: bool) -> float:
    """Return 1 if the cue's score is the highest, shared among equals, else 0."""
    spans = context_words(item.usage)
    compared = {
        (span.start, span.end): round(score, TIE_DECIMALS)
        for span, score in zip(spans, scores, strict=True)
        if not content or is_content_word(word_form(span.text))
    }
    best = max(compared.values())
    winners = [place for place, score in compared.items() if score == best]
    return ((item.cue.start, item.cue.end) in winners) / len(winners)


def _interval(hits: NDArray[np.float64], words: Sequence[str], *, seed: int) -> tuple[float, float]:
    names, numbers = np.unique(words, return_inverse=True)
    sums, counts = np.bincount(numbers, weights=hits), np.bincount(numbers)
    drawn = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _item(row: Row) -> CueItem:
    usage = Usage(row.text("text"), row.integer("start"), row.integer("end"))
    start, end = row.integer("cue_start"), row.integer("cue_end")
    cue = Span(start, end, usage.text[start:end])
    if not usage.word.strip() or cue not in context_words(usage):
        raise row.error(
            f"{usage.word!r} and {cue.text!r} must be two words of {usage.text!r}: offsets count characters from 0, "
            "and the end is the first character after the word"
        )
    return CueItem(row.identifier("id"), row.text("word"), usage, cue)
