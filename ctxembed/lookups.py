"""Static lookups made of an encoder: each word by itself, in any layer, or the mean of its uses in a corpus.

They are what context has to beat with everything else held equal: the same weights, the same tokens. Letters: N items,
V words, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ctxembed.config import check
from ctxembed.corpus import require_restartable
from ctxembed.errors import InvalidInputError
from ctxembed.runtime import batched, environment, sha256_text
from ctxembed.static import StaticVectors
from ctxembed.text import sentence_spans, word_form, word_forms, word_spans
from ctxembed.types import Document, Usage, UsageEncoder, Vectors
from ctxembed.word2vec import Tally, count_words, vocabulary_of

_BATCH = 8192  # usages encoded at once


class WordsAlone:
    """An encoder's vector of each word when the word is all the text there is: a lookup that knows every word.

    In layer 0 it is the embedding layer; in another layer a static twin made of the vocabulary alone, as model2vec
    makes one. A TextEncoder (the mean of the words' unit vectors) and a UsageEncoder.
    """

    def __init__(self, encoder: UsageEncoder, *, layer: int | None = None) -> None:
        """Look words up in an encoder.

        Args:
            encoder: Whose vectors they are.
            layer: Where to read; None is the encoder's own choice.
        """
        self._encoder = encoder
        self._layer = layer
        self._cache: dict[str, Vectors] = {}

    @property
    def name(self) -> str:
        """layer0 or twin, and the encoder's name."""
        kind = "twin" if self._layer is None else f"layer{self._layer}"
        return f"{kind} of {self._encoder.name}"

    @property
    def dimension(self) -> int:
        """The width D of every vector."""
        return self._encoder.dimension

    @property
    def fingerprint(self) -> str:
        """A sha256 over the encoder's, and the layer."""
        return sha256_text("words alone", self._encoder.fingerprint, str(self._layer))

    def encode(self, texts: Sequence[str], *, prompt: str | None = None) -> Vectors:
        """Average the vectors of the words of each text.

        Args:
            texts: N texts; none gives shape (0, D).
            prompt: Its words count as if they stood before every text.

        Returns:
            float32 (N, D), L2-normalised; a text without any word is a zero row.

        Raises:
            InvalidInputError: If one string is given in place of a list.
        """
        if isinstance(texts, str):
            raise InvalidInputError(f"texts is the string {texts[:40]!r}, need several: pass a list of texts")
        before = word_forms(prompt or "")
        forms = [word_forms(text) for text in texts]
        return self._means([before + words if words else [] for words in forms])

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        """Look up the word of each usage; its context changes nothing.

        Args:
            usages: N words in context; none gives shape (0, D). Several words are averaged.
            layer: None or 0.

        Returns:
            float32 (N, D), L2-normalised; a span without a letter or digit is a zero row.

        Raises:
            InvalidInputError: For another layer.
        """
        check(layer in (None, 0), f"layer = {layer}: a lookup has no layers, leave it out")
        return self._means([word_forms(usage.word) for usage in usages])

    def _means(self, rows: Sequence[Sequence[str]]) -> Vectors:
        wanted = [form for form in dict.fromkeys(form for forms in rows for form in forms) if form not in self._cache]
        for start in range(0, len(wanted), _BATCH):
            part = wanted[start : start + _BATCH]
            vectors = self._encoder.encode_usages([Usage(form, 0, len(form)) for form in part], layer=self._layer)
            self._cache.update(zip(part, vectors, strict=True))
        result = np.zeros((len(rows), self.dimension), dtype=np.float32)
        for row, forms in enumerate(rows):
            if forms:
                total = np.sum([self._cache[form] for form in sorted(forms)], axis=0, dtype=np.float64)
                result[row] = total / (np.linalg.norm(total) or 1.0)
        return result


def static_twin(
    encoder: UsageEncoder,
    documents: Iterable[Document],
    *,
    min_count: int = 5,
    max_vocabulary: int | None = None,
    contexts: int = 50,
    layer: int | None = None,
    on_progress: Callable[[Tally], None] | None = None,
) -> StaticVectors:
    """Make static vectors of an encoder: each word the mean of its vectors in the contexts of a corpus.

    The "decontextualised" vectors of Bommasani, Davis and Cardie, "Interpreting Pretrained Contextualized
    Representations via Reductions to Static Embeddings" (ACL 2020), there with more contexts a word.

    Args:
        encoder: Gives the vectors of the usages.
        documents: A restartable stream; it is read twice.
        min_count: A word form must occur so often.
        max_vocabulary: Most word forms, the most frequent first.
        contexts: So many uses of a word, the first ones; 0 takes each word by itself, as model2vec does.
        layer: Where to read; None is the encoder's own choice.
        on_progress: Called now and then while the words are counted.

    Returns:
        A vector for each word that has any.

    Raises:
        InvalidInputError: If the documents are a one-shot iterator or hold no such word, or contexts is negative.
    """
    require_restartable(documents)
    check(contexts >= 0, f"contexts = {contexts}: need 0 (each word by itself) or more")
    tally = count_words(documents, on_progress=on_progress)
    vocabulary = vocabulary_of(tally, min_count=min_count, most=max_vocabulary)
    places = {form: place for place, form in enumerate(vocabulary)}
    sums = np.zeros((len(places), encoder.dimension), dtype=np.float64)
    alone = [Usage(form, 0, len(form)) for form in vocabulary]
    uses = _uses(documents, vocabulary, most=contexts) if contexts else alone
    for batch in batched(uses, _BATCH):
        vectors = encoder.encode_usages(batch, layer=layer)
        np.add.at(sums, [places[word_form(usage.word)] for usage in batch], vectors)
    kept = np.flatnonzero(sums.any(axis=1))
    check(len(kept) > 0, f"{encoder.name} gives no vector for any of the {len(places)} words")
    lengths = np.linalg.norm(sums[kept], axis=1, keepdims=True)
    counts = np.fromiter(vocabulary.values(), np.int64)[kept]
    training = {
        "twin_of": encoder.name,
        "fingerprint": encoder.fingerprint,
        "layer": layer,
        "contexts": contexts,
        "min_count": min_count,
        "max_vocabulary": max_vocabulary,
        "versions": environment()["versions"],
    }
    words = list(vocabulary)
    vectors = (sums[kept] / lengths).astype(np.float32)
    return StaticVectors([words[place] for place in kept], vectors, counts, name="twin", training=training)


def _uses(documents: Iterable[Document], vocabulary: Iterable[str], *, most: int) -> Iterable[Usage]:
    """Yield the first uses of every word, each in its sentence."""
    left = Counter(dict.fromkeys(vocabulary, most))
    for document in documents:
        if not left:
            return
        for sentence in sentence_spans(document.text):
            for span in word_spans(sentence.text):
                form = word_form(span.text)
                if form in left:
                    yield Usage(sentence.text, span.start, span.end)
                    left[form] -= 1
                    if not left[form]:
                        del left[form]
