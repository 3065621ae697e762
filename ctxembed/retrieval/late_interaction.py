"""Late interaction: a query and a text meet token by token, after each was read on its own.

Letters: Q tokens of a query, T tokens of all texts together, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import InvalidInputError
from ctxembed.retrieval.ranking import best_alignment, max_similarities
from ctxembed.text import is_content_word, word_form, word_spans
from ctxembed.types import Answer, Span, TextEncoder, Usage, UsageEncoder, Vectors
from ctxembed.units import TokenSpans


def usage_encoder(encoder: TextEncoder) -> UsageEncoder:
    """Return an encoder that gives vectors of single words.

    Raises:
        InvalidInputError: If this one does not.
    """
    if not isinstance(encoder, UsageEncoder):
        raise InvalidInputError(f"{encoder.name} makes no word vectors: search without rerank and explain")
    return encoder


def late_interaction(encoder: UsageEncoder, query: str, texts: Sequence[str]) -> NDArray[np.float64]:
    """Score texts by the mean over the query's tokens of the greatest cosine with a token of the text.

    Tokens of words that do grammar's work ask for nothing, unless the query has no others.

    Args:
        encoder: Gives token vectors, or where it has no tokens (a static lookup) word vectors.
        query: Any text.
        texts: N texts; the vectors of all their tokens are in memory together.

    Returns:
        (N,) in [-1, 1]; -1 for a text without tokens, 0 for all others where the query has none.
    """
    find = encoder.token_spans if isinstance(encoder, TokenSpans) else word_spans
    vectors, bounds = _vectors(encoder, [query, *texts], find)
    start = bounds[1]
    words = _telling_words(query)
    asks = [any(word.start < token.end and token.start < word.end for word in words) for token in find(query)]
    return max_similarities(vectors[:start][np.array(asks, dtype=np.bool_)], vectors[start:], bounds[1:] - start)


def explain(encoder: UsageEncoder, query: str, texts: Sequence[str]) -> list[tuple[Answer, ...]]:
    """Find the word of each text that is nearest to each word of the query, both in their contexts.

    Args:
        encoder: Gives word vectors.
        query: Any text; words that do grammar's work are left out, unless there are no others.
        texts: N texts.

    Returns:
        For each text the query's words in their order, with the best word of the text; words without a vector are
        left out on both sides. Content words of the text are preferred in the same way.
    """
    vectors, bounds = _vectors(encoder, [query, *texts], _telling_words)
    spans = [_telling_words(text) for text in (query, *texts)]
    rows = [np.arange(start, end) for start, end in itertools.pairwise(bounds)]
    known = [part[vectors[part].any(axis=1)] for part in rows]
    explained: list[tuple[Answer, ...]] = []
    for number in range(1, len(spans)):
        if not len(known[0]) or not len(known[number]):
            explained.append(())
            continue
        aligned = best_alignment(vectors[known[0]], vectors[known[number]])
        asked = [spans[0][row] for row in known[0]]
        given = [spans[number][known[number][place] - bounds[number]] for place in aligned.places]
        explained.append(tuple(map(Answer, asked, given, aligned.cosines.tolist())))
    return explained


def _telling_words(text: str) -> list[Span]:
    spans = word_spans(text)
    return [span for span in spans if is_content_word(word_form(span.text))] or spans


def _vectors(
    encoder: UsageEncoder, texts: Sequence[str], find: Callable[[str], list[Span]]
) -> tuple[Vectors, NDArray[np.int64]]:
    """Return the vectors of all spans of N texts, (T, D), and where each text's begin and end, (N + 1,)."""
    usages = [[Usage(text, span.start, span.end) for span in find(text)] for text in texts]
    bounds = np.cumsum([0, *map(len, usages)])
    return encoder.encode_usages([usage for part in usages for usage in part]), bounds
