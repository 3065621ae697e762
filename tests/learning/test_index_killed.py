"""SIGKILL at random moments of changes to an index: it holds the old rows or the new ones, and nothing else.

The suite kills some forty times; ``make torture`` kills as often as it is told.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from ctxembed.index import changes as index_changes
from ctxembed.index import kinds as index_kinds
from ctxembed.index import rows as index_rows
from ctxembed.index import updates as index_updates
from ctxembed.index.changes import compact_folder, delete_rows
from ctxembed.index.folder import check_folder
from ctxembed.index.kinds import IndexOptions
from ctxembed.index.manifest import ADDING
from ctxembed.index.updates import add_documents
from ctxembed.search import SemanticSearch
from ctxembed.types import Document

ROWS = 600
SETTINGS = [
    *((module, "FLAT_VALUES", 30 * 16) for module in (index_changes, index_kinds)),  # several vector indexes
    (index_changes, "SMALL_VALUES", 4 * 16),
    (index_updates, "PART_ROWS", 16),
    *((index_rows, name, value) for name, value in (("COPIED_BYTES", 0), ("LOG_BYTES", 200_000), ("LOGGED_SHARE", 1))),
]
"""Small limits, so that everything that large indexes need happens to small ones: rows are copied or get a log."""


@dataclass(frozen=True)
class HashEncoder:
    """A random vector for each text: only the right text gives the right vector."""

    name: str = "hash"
    dimension: int = 16
    fingerprint: str = "0" * 64

    def encode(self, texts, *, prompt=None):
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
            vector[:] = np.random.default_rng(seed).standard_normal(self.dimension)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


ENCODER = HashEncoder()


def documents(chance, count):
    """Draw documents with ids from a small range, so that many are known already."""
    ids = chance.sample(range(2 * ROWS), count)
    return [Document(f"d{n}", f"text {chance.randrange(1000)} of {n}", {"n": chance.randrange(5)}) for n in ids]


class Planned(NamedTuple):
    """A change: its name, what does it, and what the index should hold afterwards."""

    name: str
    change: Callable[[Path], object]
    after: dict[str, Document]


def adding(name, model, new, *, resume):
    """Plan to add documents, or to bring them up to date; with ``resume`` an interrupted addition of them goes on."""
    how = {"resume": True} if resume else {"restart": True}
    if name == "update":
        how["on_existing"] = "update"
    return Planned(
        f"{name}, resumed" if resume else name,
        lambda path: add_documents(path, new, encoder=ENCODER, batch_size=10, **how),
        model | {d.id: d for d in new},
    )


def planned(chance, names, model, interrupted):
    """Choose a change, and return it with the addition that it is, if it is one: name and documents."""
    if interrupted is not None and chance.random() < 0.5:
        return adding(interrupted[0], model, interrupted[1], resume=True), interrupted
    name = chance.choice(names)
    if name in ("add", "update"):
        new = documents(chance, 60)
        if name == "add":
            new = [d for d in new if d.id not in model]
        return adding(name, model, new, resume=False), (name, new)
    if name == "delete":
        gone = set(chance.sample(sorted(model), min(len(model), 40)))
        kept = {key: d for key, d in model.items() if key not in gone}
        return Planned(name, lambda path: delete_rows(path, ids=sorted(gone)) if gone else None, kept), None
    if name == "delete where":
        kept = {key: d for key, d in model.items() if not (d.metadata["n"] == 3 and d.id > "d7")}
        return Planned(name, lambda path: delete_rows(path, where="n = 3 and id > 'd7'"), kept), None
    return Planned(name, compact_folder, model), None


def content(path):
    """Return what an index holds, after making sure that it is sound and every vector is that of its text."""
    check_folder(path)
    with SemanticSearch.open(path, encoder=ENCODER) as search:
        numbers = search.numbers()
        rows = search.rows(numbers)
        np.testing.assert_allclose(search.vectors(numbers), ENCODER.encode([row.text for row in rows]), atol=1e-6)
        return {row.id: Document(row.id, row.text, row.metadata) for row in rows}


def killed(change, path, seconds):
    """Run a change in a process of its own and kill it; return whether it was done before. A change must not fail."""
    child = os.fork()
    if not child:
        code = 1
        try:
            change(path)
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"the change failed before it was killed, with exit code {code}"
    return code == 0


def leftover(path):
    """Tell apart the interrupted additions that may lie beside an index."""
    file = path / ADDING / "manifest.json"
    return (file.stat().st_ino, file.stat().st_mtime_ns) if file.exists() else None


def torture(path, rounds, *, seed, kind, names=("add", "update", "delete", "delete where", "compact")):
    """Kill changes at random moments.

    AssertionError or ArtifactError if a change fails, does not do what it should, or leaves anything but old or new.
    """
    chance, seen = random.Random(seed), Counter()
    model = {d.id: d for d in documents(chance, ROWS)}
    SemanticSearch.build(model.values(), encoder=ENCODER, path=path, options=IndexOptions(kind=kind)).close()
    longest = Counter()  # seconds, in thousandths, that each kind of change takes
    interrupted = None
    for _ in range(rounds):
        (name, change, after), addition = planned(chance, names, model, interrupted)
        most = longest.setdefault(name, 200)
        moment = chance.randrange(most)
        waiting = leftover(path)
        done = killed(change, path, moment / 1000)
        if done:
            longest[name] = max(10, most * 19 // 20)
        elif moment > 0.7 * most:
            longest[name] = min(2000, most * 6 // 5)
        found = content(path)
        assert found in ((after,) if done else (model, after)), f"{name}: neither the old rows nor the new ones"
        outcome = "done before the kill" if done else "new rows" if found == after != model else "old rows"
        seen[f"{name}: {outcome}"] += 1
        model = found
        if done or addition is None:
            interrupted = None
        elif leftover(path) != waiting:  # else nothing was begun, and what was interrupted before still waits
            interrupted = addition
    return seen


can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@can_fork
@pytest.mark.parametrize("kind", ["flat", "ivf-sq8"])
def test_killed_change_leaves_the_old_index_or_the_new_one(tmp_path, kind, monkeypatch):
    for module, name, value in SETTINGS:
        monkeypatch.setattr(module, name, value)
    seen = torture(tmp_path / "i", 12, seed=1, kind=kind)
    assert sum(seen.values()) == 12


@can_fork
def test_change_that_fails_is_not_taken_for_one_that_was_done(tmp_path):
    def fail(path):
        raise OSError(path)

    assert killed(lambda path: path.touch(), tmp_path / "done", 1)
    assert not killed(lambda path: time.sleep(60), tmp_path, 0.1)
    with pytest.raises(AssertionError, match="failed before it was killed, with exit code 1"):
        killed(fail, tmp_path, 1)


@can_fork
def test_killed_additions_go_on_where_they_were_or_are_done(tmp_path, monkeypatch):
    for module, name, value in SETTINGS:
        monkeypatch.setattr(module, name, value)
    seen = torture(tmp_path / "i", 12, seed=2, kind="flat", names=["add", "update"])
    assert any("resumed" in what for what in seen)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    for module, name, value in SETTINGS:
        setattr(module, name, value)
    for number, each in enumerate(("flat", "hnsw", "ivf-sq8", "ivf-pq")):
        with tempfile.TemporaryDirectory() as place:
            result = torture(Path(place) / "i", count, seed=number, kind=each)
        lines = [f"{each}: {count} kills at random moments, the index was sound and old or new after every one"]
        lines += [f"    {times:5d}  {what}" for what, times in sorted(result.items())]
        sys.stdout.write("\n".join([*lines, ""]))
        sys.stdout.flush()
