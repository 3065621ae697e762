"""Random sequences of changes to an index of each kind, compared with a dictionary and brute force."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from ctxembed.index import changes as index_changes
from ctxembed.index import kinds as index_kinds
from ctxembed.index import rows as index_rows
from ctxembed.index import searcher as index_search
from ctxembed.index.changes import compact_folder, delete_rows
from ctxembed.index.folder import check_folder
from ctxembed.index.kinds import IndexOptions
from ctxembed.index.updates import add_documents
from ctxembed.search import SemanticSearch
from ctxembed.types import Document

WORDS = ("river", "bank", "money", "loan", "water", "boat", "tree", "leaf", "stone", "fish", "coin", "debt", "")
K = 3

texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
documents = st.dictionaries(
    st.integers(0, 59).map(lambda number: f"d{number}"), st.tuples(texts, st.integers(0, 3)), max_size=30
).map(lambda chosen: [Document(name, text, {"n": n}) for name, (text, n) in chosen.items()])


class Changes(RuleBasedStateMachine):
    """The index, and what it should hold."""

    kind = "flat"
    encoder = None

    @initialize(first=documents)
    def build(self, first):
        self.folder = Path(tempfile.mkdtemp())
        self.model = {document.id: document for document in first}
        options = IndexOptions(kind=self.kind, min_recall=1)
        self.search = SemanticSearch.build(first, encoder=self.encoder, path=self.folder, options=options)

    @rule(more=documents)
    def add(self, more):
        new = [document for document in more if document.id not in self.model]
        add_documents(self.folder, new, encoder=self.encoder)
        self.model |= {document.id: document for document in new}

    @rule(more=documents)
    def update(self, more):
        add_documents(self.folder, more, encoder=self.encoder, on_existing="update")
        self.model |= {document.id: document for document in more}

    @rule(number=st.integers(0, 3), word=st.sampled_from(WORDS[:-1]))
    def delete_where(self, number, word):
        gone = [d.id for d in self.model.values() if d.metadata["n"] == number and word in d.text]
        assert delete_rows(self.folder, where=f"n = {number} and text like '%{word}%'") == len(gone)
        for name in gone:
            del self.model[name]

    @rule(data=st.data())
    def delete_ids(self, data):
        if self.model:
            ids = data.draw(st.lists(st.sampled_from(sorted(self.model)), min_size=1, max_size=20, unique=True))
            assert delete_rows(self.folder, ids=ids) == len(ids)
            for name in ids:
                del self.model[name]

    @rule()
    def compact(self):
        compact_folder(self.folder)

    @invariant()
    def index_holds_what_it_should(self):
        manifest = check_folder(self.folder)
        assert manifest.rows == len(self.model)
        self.search.close()
        self.search = SemanticSearch.open(self.folder, encoder=self.encoder)
        rows = self.search.rows(self.search.numbers())
        assert {row.id: (row.text, row.metadata) for row in rows} == {
            name: (document.text, document.metadata) for name, document in self.model.items()
        }

    @invariant()
    def search_equals_brute_force(self):
        for condition, chosen in ((None, self.model), ("n = 1", self._with(1))):
            vectors = self.encoder.encode([document.text for document in chosen.values()])
            for query in ("river bank", "money"):
                scores = dict(zip(chosen, vectors @ self.encoder.encode([query])[0], strict=True))
                options = {} if condition is None or not self.model else {"where": condition}
                hits = self.search.search(query, k=K, **options)
                assert len({hit.id for hit in hits}) == len(hits) == min(K, len(chosen))
                np.testing.assert_allclose([h.score for h in hits], [scores[h.id] for h in hits], atol=1e-5)
                best = sorted(scores.values(), reverse=True)[: len(hits)]
                np.testing.assert_allclose([hit.score for hit in hits], best, atol=self.tolerance)

    def _with(self, number):
        return {name: document for name, document in self.model.items() if document.metadata["n"] == number}

    @property
    def tolerance(self):
        """Of approximate kinds a row may be passed over for another that is about as good."""
        return {"flat": 1e-5, "hnsw": 1e-5, "ivf-sq8": 0.02}.get(self.kind, 0.5)

    def teardown(self):
        if hasattr(self, "folder"):
            self.search.close()
            shutil.rmtree(self.folder)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf-sq8", "ivf-pq", "SQ8"])
def test_index_after_random_changes_equals_brute_force(kind, fake_encoder, monkeypatch):
    for module in (index_changes, index_kinds):
        monkeypatch.setattr(module, "FLAT_VALUES", 160)  # ten rows: more of them are added as a graph
    monkeypatch.setattr(index_search, "EXACT_ROWS", 2)
    monkeypatch.setattr(index_changes, "SMALL_VALUES", 32)  # two rows
    for name, value in (
        ("COPIED_BYTES", 0),
        ("LOG_BYTES", 100_000),
        ("LOGGED_SHARE", 0.5),
    ):  # copies and logs, in turns
        monkeypatch.setattr(index_rows, name, value)
    machine = type("Machine", (Changes,), {"kind": kind, "encoder": fake_encoder})
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    limits = settings(max_examples=6, stateful_step_count=8, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(machine, settings=limits)
