"""Static lookups made of an encoder: words alone in a layer, and the mean over a corpus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ctxembed.embedder import Embedder
from ctxembed.errors import InvalidInputError
from ctxembed.lookups import WordsAlone, static_twin
from ctxembed.text import find_usage
from ctxembed.types import Document, Encoder, Usage

TEXTS = ("The bank lent money to the farmer. She sat by the river.", "A bank of the river. The bank paid.")


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Embedder:
    return Embedder.load(tiny_model, dtype="float32")


def documents() -> list[Document]:
    return [Document(str(number), text) for number, text in enumerate(TEXTS)]


@pytest.mark.parametrize("layer", [0, None])
def test_word_alone_has_one_vector_in_every_context(encoder: Embedder, layer: int | None) -> None:
    lookup = WordsAlone(encoder, layer=layer)
    assert isinstance(lookup, Encoder)
    uses = [find_usage(TEXTS[0], "bank"), find_usage("BANK", "BANK"), Usage("bank", 0, 4)]
    vectors = lookup.encode_usages(uses)
    np.testing.assert_array_equal(vectors[0], vectors[1])
    np.testing.assert_allclose(vectors[2], encoder.encode_usages([uses[2]], layer=layer)[0], atol=1e-6)
    in_context = encoder.encode_usages(uses[:2], layer=None)
    assert not np.allclose(in_context[0], in_context[1], atol=1e-3)


def test_text_is_the_mean_of_its_words_and_an_empty_one_a_zero_row(encoder: Embedder) -> None:
    lookup = WordsAlone(encoder, layer=0)
    vectors = lookup.encode(["river, river bank", "", "?!"])
    river, bank = lookup.encode_usages([Usage("river", 0, 5), Usage("bank", 0, 4)])
    mean = 2 * river + bank
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-6)
    assert not vectors[1:].any()
    assert lookup.encode([]).shape == (0, encoder.dimension)


def test_names_and_fingerprints_say_what_is_looked_up(encoder: Embedder) -> None:
    first, last = WordsAlone(encoder, layer=0), WordsAlone(encoder)
    assert (first.name, last.name) == ("layer0 of tiny", "twin of tiny")
    assert len({first.fingerprint, last.fingerprint, encoder.fingerprint}) == 3


def test_lookup_refuses_a_layer_and_a_single_string(encoder: Embedder) -> None:
    with pytest.raises(InvalidInputError, match="a lookup has no layers"):
        WordsAlone(encoder).encode_usages([Usage("bank", 0, 4)], layer=2)
    with pytest.raises(InvalidInputError, match="pass a list of texts"):
        WordsAlone(encoder).encode("bank")


def test_twin_is_the_mean_of_a_words_uses(encoder: Embedder) -> None:
    twin = static_twin(encoder, documents(), min_count=2)
    assert twin.words == ("the", "bank", "river")
    assert twin.counts.tolist() == [5, 3, 2]
    sentences = ["The bank lent money to the farmer.", "A bank of the river.", "The bank paid."]
    mean = encoder.encode_usages([find_usage(sentence, "bank") for sentence in sentences]).sum(axis=0)
    np.testing.assert_allclose(twin.vector("bank"), mean / np.linalg.norm(mean), atol=1e-5)
    assert twin.training["fingerprint"] == encoder.fingerprint


def test_twin_takes_so_many_uses_and_in_the_given_layer(encoder: Embedder) -> None:
    twin = static_twin(encoder, documents(), min_count=2, contexts=1, layer=1)
    [expected] = encoder.encode_usages([find_usage("A bank of the river.", "river")], layer=1)
    first = encoder.encode_usages([find_usage("She sat by the river.", "river")], layer=1)[0]
    np.testing.assert_allclose(twin.vector("river"), first, atol=1e-5)
    assert not np.allclose(twin.vector("river"), expected, atol=1e-3)


def test_twin_without_contexts_is_of_words_alone(encoder: Embedder) -> None:
    twin = static_twin(encoder, documents(), min_count=2, contexts=0, max_vocabulary=2)
    assert twin.words == ("the", "bank")
    np.testing.assert_allclose(
        twin.vector("bank"), WordsAlone(encoder).encode_usages([Usage("bank", 0, 4)])[0], atol=1e-5
    )


def test_twin_of_a_generator_is_refused(encoder: Embedder) -> None:
    def once() -> Iterator[Document]:
        yield from documents()

    with pytest.raises(InvalidInputError, match="one-shot iterator"):
        static_twin(encoder, once())


def test_twin_with_fewer_than_no_contexts_is_refused(encoder: Embedder) -> None:
    with pytest.raises(InvalidInputError, match="contexts = -1: need 0"):
        static_twin(encoder, documents(), contexts=-1)
