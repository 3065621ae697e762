"""Texts that are hard on tokenizers, and a small tokenizer of each kind."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from ctxembed.tokenizer import FILE_NAME, SubwordTokenizer, TokenizerConfig

KINDS = ("wordpiece", "bpe", "unigram")
LATIN = [chr(code) for code in range(0x21, 0x180) if chr(code).isprintable() and chr(code) != "İ"]
CORPUS = [
    "The bank of the river was steep, and the bank lent money to the miller.",
    "A café, naïve and über: it's 3.5 % of the re-entered banks!",
    "Bankers were banking (rivers, mills and millers' money).",
    "日本の銀行 😀 emoji",
    " ".join(LATIN),
] * 3

# Text in which known words, spaces of all kinds and what Unicode normalisation moves about are frequent.
WORDS = [
    "bank",
    "Bankers",
    "the",
    "re-entered",
    "café",
    "e\u0301",
    "İ",
    "ﬁ",
    "[MASK]",
    "日本",
    "😀",
    "\ud83d\ude00",
    "\udc00",
]
any_text = st.lists(
    st.sampled_from([*WORDS, *" \n\t\u3000.,'’-(▁Ġ#"]) | st.text(st.characters(exclude_categories=[]), max_size=9),
    max_size=12,
).map("".join)
latin_text = st.lists(st.sampled_from([*LATIN, " ", "bank", "millers", "e\u0301"]), max_size=9).map("".join)
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
    config = TokenizerConfig(**{"kind": kind, "vocab_size": 6000, **settings})
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
