"""The rows of an index that is too large to be copied by every change: the file stays, what changes goes to a log."""

from __future__ import annotations

import os

import numpy as np
import pytest

from ctxembed.errors import ArtifactError
from ctxembed.index import changes as index_changes
from ctxembed.index import rows as index_rows
from ctxembed.index.changes import compact_folder, delete_rows
from ctxembed.index.folder import check_folder
from ctxembed.index.manifest import IndexManifest
from ctxembed.index.updates import add_documents
from ctxembed.search import SemanticSearch
from ctxembed.types import Document

DOCUMENTS = [Document(f"d{n}", f"river bank number {n}", {"n": n % 7}) for n in range(400)]
NEW = Document("new", "a boat on the water", {"n": 9, "other": "x"})


@pytest.fixture
def built(tmp_path, fake_encoder, monkeypatch):
    monkeypatch.setattr(index_rows, "COPIED_BYTES", 0)
    SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i").close()
    return tmp_path / "i"


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def found(search, **options):
    return [hit.id for hit in search.search("boat water", k=3, **options)]


def test_small_change_leaves_the_rows_file_and_writes_a_log(built, fake_encoder):
    content, inode = (built / "rows.1.sqlite").read_bytes(), (built / "rows.1.sqlite").stat().st_ino
    add_documents(built, [NEW], encoder=fake_encoder)
    assert names(built) == ["manifest.json", "rows.2.sqlite", "rows.2.sqlite-wal", "vectors.2.faiss"]
    delete_rows(built, ids=["d3"])
    add_documents(built, [Document("d4", "another water", {})], encoder=fake_encoder, on_existing="update")
    assert names(built) == ["manifest.json", "rows.4.sqlite", "rows.4.sqlite-wal", "vectors.4.faiss"]
    assert (built / "rows.4.sqlite").read_bytes() == content
    assert (built / "rows.4.sqlite").stat().st_ino == inode
    assert check_folder(built).rows == 400
    with SemanticSearch.open(built, encoder=fake_encoder) as search:
        for mode in ("dense", "lexical", "hybrid"):
            assert found(search, mode=mode)[0] == "new"
        assert found(search, where="other = 'x'") == ["new"]
        assert found(search, where="n = 4 and id = 'd4'") == []
        kept = {row.id: row.text for row in search.rows(search.numbers())}
    expected = {d.id: d.text for d in DOCUMENTS} | {"new": NEW.text, "d4": "another water"}
    del expected["d3"]
    assert kept == expected
    assert names(built) == [
        "manifest.json",
        "rows.4.sqlite",
        "rows.4.sqlite-wal",
        "vectors.4.faiss",
    ]  # readers leave none


def test_reader_keeps_its_generation_while_logs_are_written(built, fake_encoder):
    add_documents(built, [NEW], encoder=fake_encoder)
    with SemanticSearch.open(built, encoder=fake_encoder) as search:
        delete_rows(built, ids=["new", "d1"])
        compact_folder(built)
        assert found(search)[0] == found(search, mode="lexical")[0] == "new"
        assert len(search.rows(search.numbers())) == 401


def test_grown_log_becomes_part_of_the_file(built, fake_encoder, monkeypatch):
    add_documents(built, [NEW], encoder=fake_encoder)
    monkeypatch.setattr(index_rows, "LOG_BYTES", 10)
    delete_rows(built, ids=["d3"])
    assert names(built) == ["manifest.json", "rows.3.sqlite", "vectors.2.faiss"]
    assert check_folder(built).rows == 400
    add_documents(built, [DOCUMENTS[3]], encoder=fake_encoder)  # the copy may have a log again
    assert names(built) == ["manifest.json", "rows.4.sqlite", "rows.4.sqlite-wal", "vectors.4.faiss"]
    assert check_folder(built).rows == 401


def test_large_change_is_written_to_a_copy(built):
    assert delete_rows(built, where="n = 3") == 57
    assert names(built) == ["manifest.json", "rows.2.sqlite", "vectors.1.faiss"]


def test_compaction_makes_the_log_part_of_the_file_and_drops_what_was_replaced(built, fake_encoder):
    add_documents(built, [NEW], encoder=fake_encoder)
    update = [Document("new", NEW.text, {"n": "secret"})]
    add_documents(built, update, encoder=fake_encoder, on_existing="update")
    add_documents(built, [NEW], encoder=fake_encoder, on_existing="update")
    assert compact_folder(built)
    assert names(built) == ["manifest.json", "rows.5.sqlite", "vectors.5.faiss"]
    assert b"secret" not in (built / "rows.5.sqlite").read_bytes()
    assert check_folder(built).rows == 401
    assert not compact_folder(built)


def test_file_system_without_hard_links_gets_a_copy(built, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    delete_rows(built, ids=["d3"])
    assert names(built) == ["manifest.json", "rows.2.sqlite", "vectors.1.faiss"]
    assert check_folder(built).rows == 399


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damaged_log_is_named(built, damage):
    delete_rows(built, ids=["d3"])
    log = built / "rows.2.sqlite-wal"
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "missing":
        log.unlink()
    else:
        log.write_bytes(data if damage == "flipped" else data[:-1])
    with pytest.raises(ArtifactError, match=r"rows\.2\.sqlite-wal is (damaged|missing)"):
        SemanticSearch.open(built)


def test_index_of_another_size_is_not_written_again_for_a_row(tmp_path, fake_encoder, monkeypatch):
    monkeypatch.setattr(index_changes, "SMALL_VALUES", 0)
    SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i").close()
    sizes = []
    for n in range(40):
        add_documents(tmp_path / "i", [Document(f"e{n}", f"boat {n}")], encoder=fake_encoder)
        sizes.append([index.rows for index in IndexManifest.read(tmp_path / "i").indexes])
    assert sizes[0] == [400, 1]
    assert max(map(len, sizes)) <= 4
    assert np.sum(sizes[-1]) == 440
    assert check_folder(tmp_path / "i").rows == 440
