"""The words that stand beside one sense more than beside the others: labels that can be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from ctxembed.meaning.clusters import Labels
from ctxembed.text import is_content_word, word_forms

LEAST = 2
"""Uses beside which a word must stand to be a label."""


def distinctive_words(
    texts: Sequence[str], labels: Labels, *, k: int, without: Collection[str] = (), number: int = 5
) -> list[list[str]]:
    """Find the content words that distinguish groups of texts from each other.

    The measure is the z-score of the log-odds ratio with an informative Dirichlet prior (Monroe, Colaresi and Quinn
    2008, equations 15 to 22), each word counted once a text; where there is one group only, plain frequency.

    Args:
        texts: N texts.
        labels: The group of each, (N,), 0 to k - 1.
        k: How many groups.
        without: Forms that are no label, such as the word itself.
        number: Words wanted for each group.

    Returns:
        k lists of at most ``number`` forms, the most distinctive first, equal ones in code point order.
    """
    counts: list[Counter[str]] = [Counter() for _ in range(k)]
    for text, label in zip(texts, labels.tolist(), strict=True):
        counts[label].update({form for form in word_forms(text) if is_content_word(form) and form not in without})
    total = Counter[str]()
    for each in counts:
        total.update(each)
    if k == 1:
        ranked = sorted((-count, form) for form, count in total.items() if count >= LEAST)
        return [[form for _, form in ranked[:number]]]
    return [_most_distinctive(each, total, number) for each in counts]


def _most_distinctive(counts: Counter[str], total: Counter[str], number: int) -> list[str]:
    forms = sorted(form for form, count in counts.items() if count >= LEAST)
    if not forms:
        return []
    here = np.array([counts[form] for form in forms], dtype=np.float64)
    all_ = np.array([total[form] for form in forms], dtype=np.float64)
    there, size = all_ - here, float(sum(total.values()))
    prior = len(total) * all_ / size  # as many words as there are forms, by frequency: rare ones need more evidence
    size_here, size_there, size_prior = float(sum(counts.values())), size - sum(counts.values()), prior.sum()

    def log_odds(part: NDArray[np.float64], whole: float) -> NDArray[np.float64]:
        odds: NDArray[np.float64] = np.log((part + prior) / np.maximum(whole + size_prior - part - prior, 1e-9))
        return odds

    ratio = log_odds(here, size_here) - log_odds(there, size_there)
    z = ratio / np.sqrt(1 / (here + prior) + 1 / (there + prior))
    order = np.argsort(-z, kind="stable")
    return [forms[n] for n in order[:number] if z[n] > 0]
