"""What would stand in the place of a word: by a head that says what the test wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ctxembed.embedder import Embedder
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint
from ctxembed.substitutes import USUAL, substitutes
from ctxembed.text import parse_usage
from ctxembed.tokenizer import SubwordTokenizer
from ctxembed.types import Usage


class ScriptedHead(nn.Module):
    """Gives the scores of one row after the other, whatever it is asked about."""

    def __init__(self, rows: Sequence[Tensor]) -> None:
        super().__init__()
        self.rows = list(rows)

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        del hidden, table
        return self.rows.pop(0)[None]


def scores(tokenizer: SubwordTokenizer, favoured: Mapping[str, float]) -> Tensor:
    """Return logits (V,) that favour some tokens, named as the vocabulary writes them."""
    row = torch.zeros(len(tokenizer))
    for name, score in favoured.items():
        row[tokenizer.vocabulary()[name]] = score
    return row


@pytest.fixture
def checkpoint(tiny_model: Path) -> Checkpoint:
    return load_checkpoint(tiny_model)


def embedder_with(checkpoint: Checkpoint, *rows: Mapping[str, float]) -> Embedder:
    """Return a model whose head favours tokens: of each use in turn, and at last without any context."""
    head = ScriptedHead([scores(checkpoint.tokenizer, row) for row in rows])
    return Embedder(replace(checkpoint, head=head))  # type: ignore[arg-type]


def test_words_that_fit_come_first_without_the_word_itself_and_what_is_no_word(checkpoint: Checkpoint) -> None:
    pieces = checkpoint.tokenizer.vocabulary()
    continuing = next(piece for piece in pieces if piece.startswith("##"))
    favoured = {"[UNK]": 20, "[MASK]": 19, "[SEP]": 18, "bank": 17, "the": 16, ".": 15, continuing: 14, "s": 13}
    fitting = {"river": 12, "plant": 11, "spring": 10}
    assert {*favoured, *fitting} <= set(pieces)
    embedder = embedder_with(checkpoint, favoured | fitting, {})
    assert substitutes(embedder, [parse_usage("by the [Bank] of mud")], number=3) == list(fitting)


def test_words_are_judged_by_all_uses_less_half_of_what_they_have_anywhere(checkpoint: Checkpoint) -> None:
    rows = {"river": 6.0, "plant": 2.0, "spring": 7.0}, {"river": 6.0, "plant": 9.0, "spring": 0.5}, {"river": 8.0}
    uses = [parse_usage("a [bank] of mud"), parse_usage("the [bank] lent")]
    first, second, anywhere = (torch.log_softmax(scores(checkpoint.tokenizer, row), 0).numpy() for row in rows)
    total = (first + second) / 2 - USUAL * anywhere
    names = sorted(rows[0], key=lambda name: -total[checkpoint.tokenizer.vocabulary()[name]])
    assert substitutes(embedder_with(checkpoint, *rows), uses, number=3) == names == ["plant", "spring", "river"]


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [(60, 60, (14, 15)), (60, 5, (24, 5)), (5, 60, (5, 24)), (3, 2, (3, 2))],
)
def test_long_context_is_cut_around_the_word(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, before: int, after: int, kept: tuple[int, int]
) -> None:
    embedder, asked = embedder_with(checkpoint, {}, {}), []
    encoder = embedder.checkpoint.encoder
    encode = encoder.at

    def noted(ids: Tensor, at: Tensor) -> Tensor:
        asked.append((ids[0].tolist(), int(at[0])))
        return encode(ids, at)

    monkeypatch.setattr(encoder, "at", noted)
    words = ["river", "plant", "spring", "old"]
    left = [words[n % 4] for n in range(before)]
    right = [words[n % 3] for n in range(after)]
    text = " ".join([*left, "bank", *right])
    start = len(" ".join(left)) + 1
    substitutes(embedder, [Usage(text, start, start + 4)])
    tokenizer = checkpoint.tokenizer
    ids, place = asked[0]
    (first,), (second,) = tokenizer.encode_ids([" ".join(left)]), tokenizer.encode_ids([" ".join(right)])
    assert (len(first), len(second)) == (before, after)
    expected = [*first[before - kept[0] :], tokenizer.mask_id, *second[: kept[1]]]
    assert ids == [tokenizer.cls_id, *expected, tokenizer.sep_id]
    assert (place, ids[place]) == (kept[0] + 1, tokenizer.mask_id)
    assert len(ids) <= embedder.max_length
    assert asked[1] == ([tokenizer.cls_id, tokenizer.mask_id, tokenizer.sep_id], 1)


def test_without_a_head_or_a_use_there_is_nothing(checkpoint: Checkpoint) -> None:
    assert substitutes(Embedder(replace(checkpoint, head=None)), [parse_usage("a [bank]")]) == []
    assert substitutes(Embedder(checkpoint), []) == []
