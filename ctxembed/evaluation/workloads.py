"""The texts that `bench speed` times: of one length or of many, cut out of running text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np

from ctxembed.config import check

Workload = Literal["mixed", "titles", "documents", "query", "texts"]
SHORTEST, LONGEST, TITLE, DOCUMENT = 5, 200, 10, 2000
"""Words of the texts of the workloads."""
ROWS_A_DOCUMENT, ROWS_A_QUERY = 100, 20
"""There is one document or query for so many rows: they take that much longer, each or by their calls."""
AS_THEY_ARE: tuple[Workload, ...] = ("documents", "texts")
"""Workloads whose texts may be too long for somebody; elsewhere everybody reads every token."""


def workload_texts(workload: Workload, sentences: Sequence[str], *, rows: int, seed: int) -> list[str]:
    """Cut texts of a workload out of running text: the sentences in an order of chance, again and again as needed.

    Mixed texts have 5 to 200 words, each length in a ratio to its neighbours as the last: short ones are more frequent.

    Raises:
        InvalidInputError: If there is no word.
    """
    if workload == "texts":
        texts = [sentence for sentence in sentences if sentence.strip()][:rows]
        check(bool(texts), "the input holds no text: check it and its text column")
        return texts
    chance = np.random.default_rng([seed, list(get_args(Workload)).index(workload)])
    if workload == "mixed":
        lengths = np.exp(chance.uniform(np.log(SHORTEST), np.log(LONGEST), rows)).round().astype(int).tolist()
    elif workload == "documents":
        lengths = [DOCUMENT] * max(1, rows // ROWS_A_DOCUMENT)
    else:
        lengths = [TITLE] * (rows if workload == "titles" else max(1, rows // ROWS_A_QUERY))
    words: list[str] = []
    split = [sentence.split() for sentence in sentences]
    check(any(split), "the input holds no word: check it and its text column")
    while len(words) < sum(lengths):
        words += [word for number in chance.permutation(len(split)) for word in split[number]]
    ends = np.cumsum(lengths).tolist()
    return [" ".join(words[end - length : end]) for end, length in zip(ends, lengths, strict=True)]


def shortened(texts: Sequence[str], count: Callable[[Sequence[str]], list[int]], most: int) -> list[str]:
    """Cut words off the end of texts until each has at most so many tokens, as ``count`` counts them."""
    texts = list(texts)
    while long := [number for number, length in enumerate(count(texts)) if length > most]:
        for number, length in zip(long, count([texts[number] for number in long]), strict=True):
            words = texts[number].split()
            texts[number] = " ".join(words[: min(len(words) - 1, len(words) * most // length)])
    return texts
