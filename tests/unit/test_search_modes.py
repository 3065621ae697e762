"""What a search may be told, each option against a few lines of numpy on all rows."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from ctxembed.errors import InvalidInputError
from ctxembed.filters import parse
from ctxembed.index import folder as folder_module
from ctxembed.retrieval import candidates as candidates_module
from ctxembed.retrieval.candidates import Candidates
from ctxembed.retrieval.options import SearchOptions
from ctxembed.search import SemanticSearch
from ctxembed.text import word_form, word_forms, word_spans
from ctxembed.types import Document
from ctxembed.vectors import Row, encoder_settings

WORDS = ("river", "bank", "money", "loan", "water", "boat", "tree", "leaf", "stone", "fish", "coin", "debt")
RNG = np.random.default_rng(3)
DOCUMENTS = [
    Document(f"d{n}", " ".join(RNG.choice(WORDS, size=5)), {"n": n, "year": 1950 + n, "even": n % 2 == 0})
    for n in range(60)
]
BY_ID = {document.id: document for document in DOCUMENTS}
QUERY = "river boat money"


class WordEncoder:
    """The encoder of the tests, with vectors of single words."""

    def __init__(self, encoder):
        self._encoder = encoder
        self.calls = 0

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    def encode(self, texts, *, prompt=None):
        self.calls += 1
        return self._encoder.encode(texts)

    def encode_usages(self, usages, *, layer=None):
        return self._encoder.encode([usage.word for usage in usages])


@pytest.fixture
def encoder(fake_encoder):
    return WordEncoder(fake_encoder)


@pytest.fixture
def search(tmp_path, encoder):
    with SemanticSearch.build(DOCUMENTS, encoder=encoder, path=tmp_path / "i") as search:
        yield search


@pytest.fixture
def cosines(encoder):
    vectors = encoder.encode([document.text for document in DOCUMENTS])
    return dict(zip(BY_ID, (vectors @ encoder.encode([QUERY])[0]).tolist(), strict=True))


def ids(hits):
    return [hit.id for hit in hits]


# By words, and by both


def test_lexical_hits_have_a_word_of_the_query_and_its_bm25(search):
    hits = search.search(QUERY, mode="lexical", k=60)
    wanted = {document.id for document in DOCUMENTS if set(word_forms(QUERY)) & set(word_forms(document.text))}
    assert set(ids(hits)) == wanted != set(BY_ID)
    assert all(hit.score == hit.bm25 > 0 and hit.cosine is None for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_lexical_search_needs_no_model(search, tmp_path):
    with SemanticSearch.open(tmp_path / "i") as opened:
        assert opened.search(QUERY, mode="lexical") == search.search(QUERY, mode="lexical")


def test_hybrid_hits_add_reciprocal_ranks(search, cosines):
    dense = ids(search.search(QUERY, k=60))
    lexical = ids(search.search(QUERY, mode="lexical", k=60))
    hits = search.search(QUERY, mode="hybrid", k=60)
    assert len(hits) == 60
    for hit in hits:
        score = 1 / (61 + dense.index(hit.id)) + (1 / (61 + lexical.index(hit.id)) if hit.id in lexical else 0)
        assert hit.score == pytest.approx(score)
        assert hit.cosine == pytest.approx(cosines[hit.id], abs=1e-6)
        assert (hit.bm25 is None) == (hit.id not in lexical)


def test_hybrid_search_falls_back_on_words_that_the_model_does_not_know(search, fake_encoder, tmp_path):
    class Deaf(WordEncoder):
        def encode(self, texts, *, prompt=None):
            return np.zeros((len(texts), 16), np.float32)

    with SemanticSearch.open(tmp_path / "i", encoder=Deaf(fake_encoder)) as opened:
        assert ids(opened.search(QUERY, mode="hybrid")) == ids(search.search(QUERY, mode="lexical"))
        with pytest.raises(InvalidInputError, match="has no word that fake knows"):
            opened.search(QUERY)


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
@pytest.mark.parametrize("query", ["", " \n", "?!"])
def test_query_without_words_is_refused(search, mode, query):
    with pytest.raises(InvalidInputError, match=r"the query is empty|has no word"):
        search.search(query, mode=mode)


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_empty_index_and_k_beyond_it_are_no_errors(tmp_path, encoder, search, mode):
    with SemanticSearch.build([], encoder=encoder, path=tmp_path / "empty") as empty:
        assert empty.search(QUERY, mode=mode, where="n > 1", rerank=5, fold=0.9, diversity=0.5, explain=True) == []
    assert len(search.search(QUERY, mode=mode, k=10_000)) == (60 if mode != "lexical" else len(lexical_rows()))


def lexical_rows():
    return [document for document in DOCUMENTS if set(word_forms(QUERY)) & set(word_forms(document.text))]


# Conditions on metadata


@pytest.mark.parametrize("where", ["n = 7", "n < 3", "year >= 2000", "even = true and n > 20", "n != 5", "n > 100"])
@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
@pytest.mark.parametrize("few, overfetch", [(5000, 1), (0, 1), (0, 10**6)])
def test_filtered_hits_are_the_best_of_all_rows_under_the_condition(search, monkeypatch, where, mode, few, overfetch):
    monkeypatch.setattr(folder_module, "FEW_ROWS", few)  # each way to filter, and both
    monkeypatch.setattr(candidates_module, "OVERFETCH", overfetch)
    tests = {
        "n = 7": lambda n: n == 7,
        "n < 3": lambda n: n < 3,
        "year >= 2000": lambda n: n >= 50,
        "even = true and n > 20": lambda n: n % 2 == 0 and n > 20,
        "n != 5": lambda n: n != 5,
        "n > 100": lambda n: False,
    }
    everything = search.search(QUERY, mode=mode if mode != "hybrid" else "dense", k=60)
    expected = [hit for hit in everything if tests[where](BY_ID[hit.id].metadata["n"])]
    for k in (1, 4, 60):
        hits = search.search(QUERY, mode=mode, k=k, where=where)
        if mode == "hybrid":
            assert {hit.id for hit in hits} <= {hit.id for hit in expected}
            assert len(hits) == min(k, len(expected))
        else:
            np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in expected[:k]], atol=1e-6)
            assert {hit.id for hit in hits} <= {hit.id for hit in expected}


@pytest.mark.parametrize("where", ["n < 3", "even = true and n > 20", "n > 100"])
def test_rows_pass_a_condition_listed_before_as_one_looked_up(search, where):
    numbers, condition = np.array([[0, 59, 22, 22], [2, 3, 1, 40]]), parse(where)
    looked_up = search.folder.passing(numbers, condition)
    listed = search.folder.matching(where)
    assert looked_up.tolist() == np.isin(numbers, listed).tolist()
    assert search.folder.passing(numbers, condition).tolist() == looked_up.tolist()


def test_condition_that_is_none_is_refused_with_its_place(search):
    with pytest.raises(InvalidInputError, match="the condition 'year >' cannot be read"):
        search.search(QUERY, where="year >")


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_condition_on_a_column_that_no_row_has_is_refused(search, mode):
    with pytest.raises(InvalidInputError, match="has a column 'yaer': did you mean 'year'"):
        search.search(QUERY, mode=mode, where="yaer > 1990")


SHADOWING = [Document(f"s{n}", WORDS[n], {"word": WORDS[-n], "start": n, "end": n + 2, "text": "x"}) for n in range(9)]


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
@pytest.mark.parametrize("few, overfetch", [(5000, 1), (0, 1), (0, 10**6)])
@pytest.mark.parametrize(
    "where, numbers",
    [
        ("word = 'debt' or word = 'fish'", [1, 3]),
        ("start >= 2 and end < 7", [2, 3, 4]),
        ("text = 'bank'", [1]),
        ("\"text\" = 'x'", list(range(9))),
    ],
)
def test_names_of_words_are_metadata_columns_of_whole_texts(
    tmp_path, encoder, monkeypatch, where, numbers, mode, few, overfetch
):
    monkeypatch.setattr(folder_module, "FEW_ROWS", few)
    monkeypatch.setattr(candidates_module, "OVERFETCH", overfetch)
    with SemanticSearch.build(SHADOWING, encoder=encoder, path=tmp_path / "s") as search:
        hits = search.search(" ".join(WORDS[:9]), mode=mode, where=where)
        assert sorted(ids(hits)) == [f"s{n}" for n in numbers]


def test_name_of_words_that_no_whole_text_has_is_refused(search):
    with pytest.raises(InvalidInputError, match="has a column 'word': there are: even, n, year"):
        search.search(QUERY, where="word = 'bank'")


# Thresholds


def test_rows_below_the_least_cosine_are_left_out(search, cosines):
    hits = search.search(QUERY, k=60, min_score=0.5)
    assert set(ids(hits)) == {name for name, cosine in cosines.items() if cosine >= 0.5} != set(cosines)
    both = search.search(QUERY, k=60, min_score=0.5, mode="hybrid")
    assert set(ids(both)) == set(ids(hits))


class TwoSidedEncoder:
    """Texts with the word "bright" are near the query "lamp", in groups of five equal ones; no others are."""

    name, dimension, fingerprint = "two sides", 16, "2" * 64

    def encode(self, texts, *, prompt=None):
        vectors = np.zeros((len(texts), 16), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            number = int(word_forms(text)[-1]) // 5 if " " in text else 0
            vector[:] = np.random.default_rng(number).normal(0, 0.1, 16)
            vector[0] = 1 if text == "lamp" or "bright" in text else -1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def sides(tmp_path):
    """As many rows with the word of the query as are near its vector, and none is both."""
    documents = [Document(f"{side}{n}", f"{side} {n}") for n in range(250) for side in ("bright", "lamp")]
    with SemanticSearch.build(documents, encoder=TwoSidedEncoder(), path=tmp_path / "sides") as search:
        yield search


@pytest.mark.parametrize("k", [10, 100, 150])
def test_threshold_leaves_as_many_hybrid_hits_as_there_are(sides, k):
    hits = sides.search("lamp", mode="hybrid", k=k, min_score=0.5)
    assert len(hits) == k
    assert [hit.cosine for hit in hits] == pytest.approx([hit.cosine for hit in sides.search("lamp", k=k)], abs=1e-6)
    assert len(sides.search("lamp", mode="hybrid", k=400, min_score=0.5)) == 250


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_folding_goes_on_behind_a_threshold(sides, mode):
    hits = sides.search("lamp", mode=mode, k=40, min_score=0.5, fold=0.9999)
    assert len(hits) == 40
    assert all(hit.cosine > 0.5 for hit in hits)
    assert len(sides.search("lamp", mode=mode, k=60, min_score=0.5, fold=0.9999)) == 50


def test_percentile_is_the_share_of_random_pairs_that_are_less_alike(search, encoder, cosines):
    vectors = encoder.encode([document.text for document in DOCUMENTS])
    pairs = (vectors @ vectors.T)[~np.eye(60, dtype=bool)]
    for hit in search.search(QUERY, k=60):
        assert hit.percentile == pytest.approx(100 * np.mean(pairs < hit.cosine), abs=2.5)
    hits = search.search(QUERY, k=60, min_percentile=80)
    limit = search.manifest.similarities.at_percentile(80)
    assert set(ids(hits)) == {name for name, cosine in cosines.items() if cosine >= limit} != set(cosines)


def test_threshold_without_cosines_is_refused(search):
    with pytest.raises(InvalidInputError, match="a threshold is on the cosine, which lexical search has not"):
        search.search(QUERY, mode="lexical", min_score=0.5)


def test_percentile_of_an_index_that_knows_no_pairs_is_refused(tmp_path, encoder):
    with SemanticSearch.build(DOCUMENTS[:1], encoder=encoder, path=tmp_path / "one") as one:
        assert one.search(QUERY)[0].percentile is None
        with pytest.raises(InvalidInputError, match="does not know how alike its rows are"):
            one.search(QUERY, min_percentile=50)


# Late interaction


def late(encoder, query, text):
    asked, given = (encoder.encode([span.text for span in word_spans(part)]) for part in (query, text))
    return float((asked @ given.T).max(axis=1).mean())


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_reranked_hits_are_the_best_rows_in_the_order_of_maxsim(search, encoder, mode):
    first = search.search(f"the {QUERY}", mode=mode, k=12)
    hits = search.search(f"the {QUERY}", mode=mode, k=12, rerank=12)
    scores = {hit.id: late(encoder, QUERY, hit.text) for hit in first}  # function words ask for nothing
    assert {hit.id: hit.cosine for hit in first} == {hit.id: hit.cosine for hit in hits}
    assert [hit.late for hit in hits] == pytest.approx([scores[hit.id] for hit in hits], abs=1e-5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all((hit.score == hit.late) == (mode == "dense") for hit in hits)


def test_ranks_of_late_interaction_are_fused_with_those_of_words():
    bm25 = np.array([np.nan, 3.0, 5.0, np.nan])
    found = Candidates(np.arange(10, 14), np.arange(4.0), np.zeros(4), bm25, np.full(4, np.nan))
    late = np.array([0.9, 0.2, 0.4, 0.6])
    ranked = found.ranked_anew(late, mode="hybrid")
    scores = {10: 1 / 61, 11: 1 / 64 + 1 / 62, 12: 1 / 63 + 1 / 61, 13: 1 / 62}
    assert ranked.numbers.tolist() == sorted(scores, key=lambda number: -scores[number])
    assert ranked.scores.tolist() == pytest.approx(sorted(scores.values(), reverse=True))
    assert ranked.late.tolist() == [late[number - 10] for number in ranked.numbers]
    assert found.ranked_anew(late, mode="dense").numbers.tolist() == [10, 13, 12, 11]


def test_hits_come_from_the_reranked_rows_only(search):
    first = {hit.id for hit in search.search(QUERY, k=12)}
    assert {hit.id for hit in search.search(QUERY, k=5, rerank=12)} < first


def test_reranking_needs_word_vectors(search, tmp_path, fake_encoder):
    with (
        SemanticSearch.open(tmp_path / "i", encoder=fake_encoder) as opened,
        pytest.raises(InvalidInputError, match="fake makes no word vectors: search without rerank and explain"),
    ):
        opened.search(QUERY, rerank=5)


def test_explanation_pairs_words_with_their_nearest(search, encoder):
    hits = search.search("the river and a boat", k=5, explain=True)
    assert len(hits) == 5
    for hit in hits:
        assert [answer.query.text for answer in hit.answers] == ["river", "boat"]
        for answer in hit.answers:
            assert hit.text[answer.hit.start : answer.hit.end] == answer.hit.text
            best = max(late(encoder, answer.query.text, word) for word in hit.text.split())
            assert answer.cosine == pytest.approx(best, abs=1e-5)


def test_words_without_a_vector_answer_nothing(tmp_path, encoder):
    class Forgetful(WordEncoder):
        def encode_usages(self, usages, *, layer=None):
            vectors = super().encode_usages(usages)
            vectors[[word_form(usage.word) == "loan" for usage in usages]] = 0
            return vectors

    documents = [Document("a", "loan river"), Document("b", "loan")]
    with SemanticSearch.build(documents, encoder=Forgetful(encoder), path=tmp_path / "f") as search:
        hits = {hit.id: hit.answers for hit in search.search("loan boat", explain=True)}
    assert [(each.query.text, each.hit.text) for each in hits["a"]] == [("boat", "river")]
    assert hits["b"] == ()


# Near-duplicates and variety


@pytest.fixture
def copies(tmp_path, encoder):
    """Ten texts, each five times under other ids."""
    documents = [Document(f"{n}-{copy}", DOCUMENTS[n].text, {"n": n}) for copy in range(5) for n in range(10)]
    with SemanticSearch.build(documents, encoder=encoder, path=tmp_path / "copies") as search:
        yield search


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_copies_are_folded_and_k_hits_remain(copies, mode):
    whole = copies.search(QUERY, mode=mode, k=50)
    hits = copies.search(QUERY, mode=mode, k=6, fold=0.999)
    assert [hit.text for hit in hits] == list(dict.fromkeys(hit.text for hit in whole))[:6]
    assert len(hits) == 6
    for hit in hits[:1]:
        number = hit.id.split("-")[0]
        assert sorted([hit.id, *hit.duplicates]) == sorted(other.id for other in whole if other.text == hit.text)
        assert len(hit.duplicates) == 4, number


def test_folding_goes_on_until_the_index_is_exhausted(copies):
    assert len({hit.text for hit in copies.search(QUERY, k=40, fold=0.999)}) == len({d.text for d in DOCUMENTS[:10]})


def test_diverse_hits_are_chosen_by_marginal_relevance(search, encoder, cosines):
    hits = search.search(QUERY, k=6, diversity=0.6)
    pool = [hit.id for hit in search.search(QUERY, k=30)]
    vectors = dict(zip(pool, encoder.encode([BY_ID[name].text for name in pool]), strict=True))
    chosen = [pool[0]]
    while len(chosen) < 6:
        left = [name for name in pool if name not in chosen]
        chosen.append(
            max(
                left,
                key=lambda name: (
                    0.4 * cosines[name] - 0.6 * max(float(vectors[name] @ vectors[other]) for other in chosen)
                ),
            )
        )
    assert ids(hits) == chosen != pool[:6]


@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
def test_diversity_of_other_scores_begins_with_the_best_hit(search, mode):
    plain, diverse = (search.search(QUERY, mode=mode, k=5, diversity=value) for value in (0.0, 0.8))
    assert diverse[0] == plain[0]
    assert set(ids(diverse)) != set(ids(plain))


# Like a row, and many at once


def test_rows_like_a_row_are_those_near_its_vector_without_itself(search, encoder):
    encoder.calls = 0
    hits = search.search_like("d7", k=59)
    assert encoder.calls == 0
    whole = search.search(BY_ID["d7"].text, k=60)
    assert "d7" not in ids(hits)
    assert len(hits) == 59
    np.testing.assert_allclose(
        [hit.score for hit in hits], [hit.score for hit in whole if hit.id != "d7"], atol=1e-6
    )  # fmt: skip


@pytest.mark.parametrize("options", [{"mode": "hybrid"}, {"mode": "lexical"}, {"rerank": 9, "explain": True}])
def test_rows_like_a_row_may_be_found_in_every_way(search, options):
    hits = search.search_like("d7", k=4, where="n > 10", **options)
    assert len(hits) == 4
    assert all(hit.metadata["n"] > 10 for hit in hits)


def test_unknown_id_and_row_without_vector_are_refused(tmp_path, encoder, search):
    with pytest.raises(InvalidInputError, match="no row has the id 'nobody'"):
        search.search_like("nobody")
    with (
        SemanticSearch.build([Document("a", "?!"), *DOCUMENTS[:2]], encoder=encoder, path=tmp_path / "z") as other,
        pytest.raises(InvalidInputError, match="the row 'a' has no vector"),
    ):
        other.search_like("a")


def test_index_of_words_is_searched_like_a_row(tmp_path, encoder):
    rows = [Row(f"t#{n}", "river bank money", n, n + 1) for n in range(3)]
    vectors = encoder.encode(["river", "bank", "money"])
    settings = encoder_settings(encoder, unit="word")
    with SemanticSearch.build_from_vectors(
        [(rows, vectors)], settings=settings, dimension=16, path=tmp_path / "w"
    ) as search:
        assert {hit.id for hit in search.search_like("t#0")} == {"t#1", "t#2"}
        with pytest.raises(InvalidInputError, match="its vectors are of unit 'word'"):
            search.search_like("t#0", mode="hybrid")


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_many_queries_get_the_hits_of_each(search, encoder, mode):
    queries = [QUERY, "debt", "leaf stone"]
    encoder.calls = 0
    found = search.search_many(queries, mode=mode, k=5, where="n < 40")
    assert encoder.calls == (0 if mode == "lexical" else 1)
    for query, hits in zip(queries, found, strict=True):
        np.testing.assert_allclose(
            [hit.score for hit in hits],
            [hit.score for hit in search.search(query, mode=mode, k=5, where="n < 40")],
            atol=1e-6,
        )
    assert search.search_many([], mode=mode) == []


def test_vectors_may_be_filtered_and_folded_but_have_no_words(copies, encoder):
    [hits] = copies.search_vectors(encoder.encode([QUERY]), k=3, where="n < 4", fold=0.99)
    assert len(hits) == 3
    assert all(hit.metadata["n"] < 4 for hit in hits)
    with pytest.raises(InvalidInputError, match="vectors have no words"):
        copies.search_vectors(encoder.encode([QUERY]), mode="hybrid")


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0, need at least 1"),
        ({"mode": "fuzzy"}, "mode 'fuzzy': must be one of dense, lexical, hybrid"),
        ({"rerank": -1}, "rerank is -1"),
        ({"fold": 0.0}, "fold is 0.0, need a cosine above 0"),
        ({"diversity": 2.0}, "diversity is 2.0"),
        ({"min_percentile": 101}, "min_percentile is 101"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(InvalidInputError, match=message):
        SearchOptions(**options)


def test_everything_at_once_works(search):
    hits = search.search(
        QUERY, k=5, mode="hybrid", where="n >= 5", rerank=20, explain=True, fold=0.99, diversity=0.2, min_score=-0.5
    )
    assert len(hits) == 5
    assert len({dataclasses.astuple(hit)[0] for hit in hits}) == 5
    assert all(hit.answers and hit.metadata["n"] >= 5 for hit in hits)


def test_equal_builds_keep_equal_scales(tmp_path, encoder):
    digests = set()
    for name in ("a", "b"):
        SemanticSearch.build(DOCUMENTS, encoder=encoder, path=tmp_path / name).close()
        digests.add(hashlib.sha256((tmp_path / name / "manifest.json").read_bytes()).hexdigest())
    assert len(digests) == 1
