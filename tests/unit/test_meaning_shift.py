from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ctxembed.errors import InvalidInputError
from ctxembed.meaning.alignment import GroupStream, aligned_distances
from ctxembed.meaning.collocates import distinctive_words
from ctxembed.meaning.occurrences import find_uses
from ctxembed.meaning.periods import Comparison, Periods, comparisons
from ctxembed.meaning.senses import find_senses
from ctxembed.meaning.shift import ShiftOptions, encode_found, measure_shift, most_shifted, with_q
from ctxembed.static import StaticVectors
from ctxembed.text import word_forms
from ctxembed.types import Document, Usage, Vectors

WATER, MONEY = ("river", "water", "boat"), ("money", "loan", "cash")


class ContextEncoder:
    """A word's vector says how many words of its sentence are about water and about money, with noise by sentence."""

    name, dimension, fingerprint = "context", 8, "context"

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        vectors = np.zeros((len(usages), self.dimension), dtype=np.float32)
        for vector, usage in zip(vectors, usages, strict=True):
            forms = word_forms(usage.text)
            if "nothing" not in forms:
                vector[:] = np.random.default_rng(sum(map(ord, usage.text))).normal(0, 0.1, self.dimension)
                vector[:3] += len(set(forms) & set(WATER)), len(set(forms) & set(MONEY)), 1
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.divide(vectors, norms, out=vectors, where=norms > 0)


def corpus(word: str, water: int, money: int, name: str) -> list[Document]:
    subjects = [WATER[n % 3] for n in range(water)] + [MONEY[n % 3] for n in range(money)]
    return [Document(f"{name}{n}", f"The {word} has {topic} {n}.", {"side": name}) for n, topic in enumerate(subjects)]


DOCUMENTS = [*corpus("bank", 30, 10, "old"), *corpus("bank", 4, 36, "new")]
DOCUMENTS += [*corpus("shore", 20, 20, "old"), *corpus("shore", 20, 20, "new")]
OPTIONS = ShiftOptions(permutations=199)
PAIR = Comparison("old", "new", ("old",), ("new",))


@pytest.fixture(scope="module")
def shifts():
    found = find_uses(DOCUMENTS, ["bank", "shore"], group=lambda document: str(document.metadata["side"]))
    return [
        measure_shift(uses, PAIR, options=OPTIONS)
        for uses in encode_found(found, encoder=ContextEncoder(), options=OPTIONS)
    ]


def test_shifted_word_is_told_from_one_that_stayed(shifts) -> None:
    bank, shore = with_q(shifts)
    assert (bank.word, bank.uses_old, bank.uses_new) == ("bank", 40, 40)
    assert bank.test
    assert shore.test
    assert bank.q <= 0.01
    assert shore.test.p > 0.05
    assert bank.test.jsd > 0.2 > shore.test.jsd
    assert [each.word for each in most_shifted([shore, bank], number=1)] == ["bank"]


def test_evidence_names_the_sense_that_grew_and_the_uses_that_show_it(shifts) -> None:
    bank = shifts[0]
    assert bank.is_clear
    grown = max(bank.senses, key=lambda sense: sense.share_new - sense.share_old)
    assert set(grown.words) <= set(MONEY)
    assert grown.words
    assert (grown.uses_old, grown.uses_new, grown.share_new) == (10, 36, 0.9)
    assert len(bank.before) == len(bank.after) == 3
    assert all(set(word_forms(use.usage.text)) & set(WATER) for use in bank.before)
    assert all(set(word_forms(use.usage.text)) & set(MONEY) for use in bank.after)


def test_uses_without_a_vector_are_left_out_and_too_few_are_not_tested() -> None:
    documents = [*corpus("bank", 5, 5, "old"), Document("x", "A bank of nothing.", {"side": "new"})]
    found = find_uses(documents, ["bank"], group=lambda document: str(document.metadata["side"]))
    uses = next(encode_found(found, encoder=ContextEncoder(), options=OPTIONS))
    shift = measure_shift(uses, PAIR, options=OPTIONS)
    assert (shift.uses_old, shift.uses_new, shift.found_new, shift.test) == (10, 0, 1, None)
    assert np.isnan(with_q([shift])[0].q)


def test_uses_of_one_sense_are_halved_for_the_shares_and_it_is_said() -> None:
    found = find_uses(
        corpus("bank", 40, 0, "old") + corpus("bank", 40, 0, "new"), ["bank"], group=lambda d: str(d.metadata["side"])
    )
    uses = next(encode_found(found, encoder=ContextEncoder(), options=OPTIONS))
    shift = measure_shift(uses, PAIR, options=OPTIONS)
    assert not shift.is_clear
    assert len(shift.senses) == 2


def test_stored_senses_keep_their_names() -> None:
    centres = np.eye(8, dtype=np.float32)[:2]
    found = find_uses(DOCUMENTS, ["bank"], group=lambda document: str(document.metadata["side"]))
    uses = next(
        encode_found(found, encoder=ContextEncoder(), options=OPTIONS, stored=lambda _: (("bank#3", "bank#7"), centres))
    )
    shift = measure_shift(uses, PAIR, options=OPTIONS)
    assert {sense.id: sense.uses_old for sense in shift.senses} == {"bank#3": 30, "bank#7": 10}


class FormEncoder(ContextEncoder):
    """Beside its context, the vector of a plural leans towards money."""

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        vectors = super().encode_usages(usages, layer=layer)
        vectors[[usage.word == "banks" for usage in usages], 1] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_written_form_does_not_decide_which_stored_sense_a_use_is_of() -> None:
    documents = [
        document
        for word in ("bank", "banks")
        for document in (*corpus(word, 20, 0, "old"), *corpus(word, 0, 20, "new"))
    ]
    table = {"bank": "bank", "banks": "bank"}
    found = find_uses(documents, table, group=lambda document: str(document.metadata["side"]))
    plain = next(encode_found(found, encoder=FormEncoder(), options=OPTIONS))
    senses = find_senses("bank", plain.occurrences, plain.vectors, k=2, with_stability=False)
    kept = tuple(sense.id for sense in senses.senses), senses.clusters.centres
    uses = next(encode_found(found, encoder=FormEncoder(), options=OPTIONS, stored=lambda _: kept))
    assert uses.clusters.labels.tolist() == senses.clusters.labels.tolist()
    sides = {(sense.uses_old, sense.uses_new) for sense in measure_shift(uses, PAIR, options=OPTIONS).senses}
    assert sides == {(40, 0), (0, 40)}


# Groups


def document(value: object) -> Document:
    return Document("d", "text", {"year": value})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "settings, values, names",
    [
        ({}, [1999, "Times"], ["1999", "Times"]),
        ({"every": 50}, [1789, 1800, "1850-02-03"], ["1750-1799", "1800-1849", "1850-1899"]),
        ({"cuts": [1900, 1950]}, [1800, 1900, 1949, 1950], ["before 1900", "1900-1949", "1900-1949", "from 1950"]),
    ],
)
def test_periods_are_named_by_their_ends(settings, values, names) -> None:
    periods = Periods("year", **settings)
    assert [periods(document(value)) for value in values] == names


def test_periods_are_ordered_by_number_and_names_by_name() -> None:
    periods = Periods("year")
    assert periods.ordered([periods(document(value)) or "" for value in (1000, 200, 30)]) == ["30", "200", "1000"]
    assert Periods("paper").ordered(["Sun", "Echo"]) == ["Echo", "Sun"]


def test_document_without_a_value_is_in_no_period_and_counted() -> None:
    periods = Periods("year")
    assert periods(document(None)) is None
    assert periods.num_without == 1


def test_column_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidInputError, match=r"no column 'date', it has year"):
        Periods("date")(document(1))
    with pytest.raises(InvalidInputError, match="year is 'soon', need a number"):
        Periods("year", every=10)(document("soon"))


def test_groups_are_compared_as_asked() -> None:
    groups = ["a", "b", "c"]
    assert [(c.old, c.new) for c in comparisons(groups, against="first")] == [("a", "b"), ("a", "c")]
    assert next((c.old_groups, c.new) for c in comparisons(groups, against="rest")) == (("b", "c"), "a")
    assert len(comparisons(groups, against="all")) == 3
    with pytest.raises(InvalidInputError, match=r"1 group \(a\), need at least two"):
        comparisons(["a"])


# Beside


def test_distinctive_words_belong_to_their_group() -> None:
    texts = ["the bank of the river", "river water"] * 3 + ["the bank lent money", "money and water"] * 3
    labels = np.repeat([0, 1], 6)
    first, second = distinctive_words(texts, labels, k=2, without={"bank"})
    assert first[0] == "river"
    assert second[0] == "money"
    assert "bank" not in first + second
    assert distinctive_words(texts, np.zeros(12, dtype=np.int64), k=1, without={"bank"}, number=2)[0] == [
        "money",
        "river",
    ]


def test_aligned_spaces_differ_only_in_the_word_that_moved() -> None:
    rng = np.random.default_rng(1)
    words = [f"w{n}" for n in range(60)]
    first = rng.standard_normal((60, 6)).astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0].astype(np.float32)
    second = first @ turn
    second[5] = -second[5]
    counts = np.arange(60, 0, -1)
    order = rng.permutation(60)
    distances = aligned_distances(
        StaticVectors(words, first, counts), StaticVectors([words[n] for n in order], second[order], counts)
    )
    assert max(distances, key=distances.__getitem__) == "w5"
    assert distances["w5"] > 1.5
    assert max(distance for word, distance in distances.items() if word != "w5") < 0.1


def test_too_few_shared_words_are_refused() -> None:
    one = StaticVectors(["a", "b"], np.eye(2, 4, dtype=np.float32), np.array([2, 1]))
    with pytest.raises(InvalidInputError, match="2 shared words in spaces of width 4"):
        aligned_distances(one, one)


def test_stream_of_a_group_can_be_read_again() -> None:
    stream = GroupStream(DOCUMENTS, lambda d: str(d.metadata["side"]), frozenset(["new"]))
    assert len(list(stream)) == len(list(stream)) == 80
