from __future__ import annotations

import dataclasses
import functools
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.text import word_spans
from ctxembed.tokenizer import FILE_NAME, SPECIAL_TOKENS, SubwordTokenizer, TokenizerConfig, token_ranges

KINDS = ("wordpiece", "bpe", "unigram")
CORPUS = [
    "The bank of the river was steep, and the bank lent money to the miller.",
    "A café, naïve and über: it's 3.5 % of the re-entered banks!",
    "Bankers were banking (rivers, mills and millers' money).",
    "日本の銀行 😀 emoji",
] * 3

any_text = st.text(st.characters(exclude_categories=[]), max_size=30)
FRAGMENTS = ["bank", "Bankers", "the", "re-entered", "café", "e\u0301", "İ", "ﬁ", "[MASK]", "日本", "😀", "\ud83d\ude00", "\udc00"]
known_text = st.lists(st.sampled_from([*FRAGMENTS, *" \n\t\u3000.,'’-(▁Ġ#"]) | any_text, max_size=12).map("".join)
latin_letters = [chr(code) for code in range(0x20, 0x180) if chr(code) != "İ"]
latin_text = st.lists(st.sampled_from([*latin_letters, "bank", "millers", "\u0301", "\u0327"]), max_size=30).map("".join)

every_kind = pytest.mark.parametrize("kind", KINDS)
foldings = st.fixed_dictionaries(
    {
        "lowercase": st.booleans(),
        "strip_accents": st.booleans(),
        "unicode_form": st.sampled_from(["nfc", "nfkc", "none"]),
    }
)


@functools.cache
def trained(kind: str = "wordpiece", **settings: Any) -> SubwordTokenizer:
    config = TokenizerConfig(**{"kind": kind, "vocab_size": 400, **settings})
    return SubwordTokenizer.train(CORPUS, config=config)


def pieces(tokenizer: SubwordTokenizer, text: str) -> list[str]:
    return [tokenizer.token(token_id) for token_id in tokenizer.encode_ids([text])[0].tolist()]


def edited(tokenizer: SubwordTokenizer, folder: Path, old: str, new: str) -> Path:
    """Save a tokenizer with something in its file replaced."""
    tokenizer.save(folder)
    file = folder / FILE_NAME
    content = file.read_text(encoding="utf-8")
    assert old in content
    file.write_text(content.replace(old, new), encoding="utf-8")
    return file


# Where tokens stand


@every_kind
@settings(deadline=None, max_examples=600)
@given(text=known_text, folding=foldings)
def test_offsets_lie_in_the_text_and_ascend(kind: str, text: str, folding: dict[str, Any]) -> None:
    batch = trained(kind, **folding).encode_batch([text])
    starts, ends = batch.offsets[0].T
    assert len(starts) == len(batch.ids[0])
    assert ((starts >= 0) & (starts <= ends) & (ends <= len(text))).all()
    assert (np.diff(starts) >= 0).all()
    assert (np.diff(ends) >= 0).all()


@every_kind
@settings(deadline=None, max_examples=600)
@given(text=known_text, folding=foldings)
def test_tokens_of_a_word_cover_it(kind: str, text: str, folding: dict[str, Any]) -> None:
    offsets = trained(kind, **folding).encode_batch([text]).offsets[0]
    words = word_spans(text)
    first, last = token_ranges(offsets, [word.start for word in words], [word.end for word in words])
    for word, start, stop in zip(words, first, last, strict=True):
        assert start < stop
        covered = {position for a, b in offsets[start:stop].tolist() for position in range(a, b)}
        left_out = set(range(word.start, word.end)) - covered
        # A combining mark has no place of its own once it is composed with its letter, or stripped.
        assert all(unicodedata.category(text[position])[0] == "M" for position in left_out)
