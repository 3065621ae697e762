from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.index import changes as index_changes
from ctxembed.index.changes import compact_folder, delete_rows, locked
from ctxembed.index.folder import check_folder
from ctxembed.index.kinds import IndexOptions
from ctxembed.index.manifest import IndexManifest
from ctxembed.index.updates import add_documents
from ctxembed.search import SemanticSearch
from ctxembed.types import Document

from .index_samples import CHANGED, DOCUMENTS, MORE, CountingEncoder, KilledError, found, names, same_as_built_from


@pytest.fixture
def encoder(fake_encoder):
    return CountingEncoder(fake_encoder)


@pytest.fixture
def built(tmp_path, encoder):
    SemanticSearch.build(DOCUMENTS, encoder=encoder, path=tmp_path / "i").close()
    encoder.texts = 0
    return tmp_path / "i"


def test_added_documents_are_found_beside_the_others(built, encoder, tmp_path):
    met = add_documents(built, MORE, encoder=encoder)
    assert (met.summary(), met.rows, encoder.texts) == ("9 added", 49, 9)
    same_as_built_from(built, [*DOCUMENTS, *MORE], tmp_path, encoder)
    assert names(built) == ["manifest.json", "rows.2.sqlite", "vectors.2.faiss"]


def test_large_index_is_not_written_again_for_a_small_addition(built, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(index_changes, "FLAT_VALUES", 10)
    add_documents(built, MORE[:4], encoder=encoder)
    assert names(built) == ["manifest.json", "rows.2.sqlite", "vectors.1.faiss", "vectors.2.faiss"]
    monkeypatch.setattr(index_changes, "FLAT_VALUES", 100)
    add_documents(built, MORE[4:], encoder=encoder)  # the last index was small: the new one takes it in
    assert names(built) == ["manifest.json", "rows.3.sqlite", "vectors.1.faiss", "vectors.3.faiss"]
    same_as_built_from(built, [*DOCUMENTS, *MORE], tmp_path, encoder)


def test_documents_that_are_there_are_not_embedded_again(built, encoder):
    met = add_documents(built, [*DOCUMENTS[:7], *MORE[:2]], encoder=encoder)
    assert (met.summary(), encoder.texts) == ("2 added, 7 unchanged", 2)


def test_nothing_new_writes_nothing(built, encoder):
    before = (built / "manifest.json").read_bytes()
    assert add_documents(built, DOCUMENTS, encoder=encoder).summary() == "40 unchanged"
    assert (built / "manifest.json").read_bytes() == before


def test_update_replaces_texts_and_metadata_and_embeds_only_texts(built, encoder, tmp_path):
    met = add_documents(built, [*CHANGED, DOCUMENTS[5], MORE[0]], encoder=encoder, on_existing="update")
    assert met.summary() == "1 added, 1 updated, 1 with new metadata only, 1 unchanged"
    assert encoder.texts == 2
    same_as_built_from(built, [*DOCUMENTS[:3], *CHANGED, *DOCUMENTS[5:], MORE[0]], tmp_path, encoder)
    assert IndexManifest.read(built).deleted == 1


@pytest.mark.parametrize("document, what", [(CHANGED[0], "text"), (CHANGED[1], "metadata")])
def test_taken_id_is_refused_and_nothing_changes(built, encoder, document, what):
    before = names(built)
    with pytest.raises(InvalidInputError, match=f"id '{document.id}' is in .* with other {what}: `ctxembed index upd"):
        add_documents(built, [MORE[0], document], encoder=encoder)
    assert names(built) == before


def test_taken_id_can_be_skipped(built, encoder, tmp_path):
    met = add_documents(built, [*CHANGED, MORE[0], MORE[0]], encoder=encoder, on_existing="skip")
    assert met.summary() == "1 added, 3 skipped: their id was taken"
    same_as_built_from(built, [*DOCUMENTS, MORE[0]], tmp_path, encoder)


def test_deleted_rows_are_not_found_and_compaction_drops_their_vectors(built, encoder, tmp_path):
    assert delete_rows(built, where="even = true") == 20
    assert delete_rows(built, ids=["d1", "d3"]) == 2
    kept = [d for d in DOCUMENTS if d.metadata["number"] % 2 and d.id not in ("d1", "d3")]
    same_as_built_from(built, kept, tmp_path, encoder)
    assert (IndexManifest.read(built).rows, IndexManifest.read(built).deleted) == (18, 22)
    size = (built / "vectors.1.faiss").stat().st_size
    assert compact_folder(built)
    same_as_built_from(built, kept, tmp_path, encoder)
    manifest = IndexManifest.read(built)
    assert (manifest.rows, manifest.deleted, manifest.generation) == (18, 0, 4)
    assert (built / "vectors.4.faiss").stat().st_size < size / 2
    assert not compact_folder(built)


def test_deleted_id_may_be_added_again(built, encoder, tmp_path):
    delete_rows(built, ids=["d0"])
    add_documents(built, DOCUMENTS[:1], encoder=encoder)
    same_as_built_from(built, DOCUMENTS, tmp_path, encoder)


def test_index_may_be_emptied_and_filled(built, encoder, tmp_path):
    assert delete_rows(built, where="number >= 0") == 40
    assert found(built, encoder) == []
    compact_folder(built)
    assert names(built) == ["manifest.json", "rows.3.sqlite"]
    check_folder(built)
    add_documents(built, DOCUMENTS, encoder=encoder)
    same_as_built_from(built, DOCUMENTS, tmp_path, encoder)


@pytest.mark.parametrize(
    "how, message",
    [
        ({"ids": ["d1", "nobody"]}, "no row has the id 'nobody'"),
        ({"where": "nubmer > 1"}, "no row of .* has a column 'nubmer': did you mean 'number'"),
        ({"where": "zzz = 1"}, "has a column 'zzz': there are: even, number"),
        ({"where": "number >"}, "cannot be read"),
    ],
)
def test_mistaken_deletion_deletes_nothing(built, how, message):
    before = (built / "manifest.json").read_bytes()
    with pytest.raises(InvalidInputError, match=message):
        delete_rows(built, **how)
    assert (built / "manifest.json").read_bytes() == before


def test_condition_without_rows_deletes_nothing(built):
    assert delete_rows(built, where="number > 1000") == 0
    assert IndexManifest.read(built).generation == 1


def test_zero_vectors_are_counted_through_every_change(built, encoder):
    add_documents(built, [Document("z1", "?!"), Document("z2", "...")], encoder=encoder)
    assert IndexManifest.read(built).num_zero == 2
    delete_rows(built, ids=["z1"])
    assert check_folder(built).num_zero == 1


def test_another_model_cannot_add(built, fake_encoder):
    with pytest.raises(ArtifactError, match="was made with fake"):
        add_documents(built, MORE, encoder=dataclasses.replace(fake_encoder, name="other"))


def test_index_of_unknown_origin_takes_no_text(tmp_path, fake_encoder):
    SemanticSearch.build_from_vectors([], settings={}, dimension=16, path=tmp_path / "i").close()
    with pytest.raises(InvalidInputError, match="the model of its vectors is unknown"):
        add_documents(tmp_path / "i", MORE, encoder=fake_encoder)


# Readers and writers


def test_reader_keeps_its_generation_while_others_change_it(built, encoder):
    with SemanticSearch.open(built, encoder=encoder) as reader:
        before = reader.search("river bank", k=100)
        add_documents(built, MORE, encoder=encoder)
        delete_rows(built, where="even = true")
        compact_folder(built)
        assert reader.search("river bank", k=100) == before
        assert len(reader.rows(reader.numbers())) == 40
    assert len(found(built, encoder)) == 29


def test_second_writer_is_told_or_waits(built):
    with locked(built, wait=False):
        with pytest.raises(InvalidInputError, match="is being changed by another process: try again .* or --wait"):
            delete_rows(built, ids=["d1"])
        thread = threading.Thread(target=delete_rows, args=(built,), kwargs={"ids": ["d1"], "wait": True})
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    thread.join(10)
    assert check_folder(built).rows == 39


READER = """
import sys
from pathlib import Path
import numpy as np
from ctxembed.index.folder import IndexFolder

print("ready", flush=True)
path, opened = Path(sys.argv[1]), 0
while not (path.parent / "stop").exists():
    with IndexFolder.open(path) as folder:
        ids = folder.search(np.eye(16, dtype=np.float32)[:1], 100).ids[0]
        assert len(folder.store.get(ids)) == len(ids) == len(folder), (len(ids), len(folder))
        assert len(folder) in (40, 49), len(folder)
        opened += 1
print(opened)
"""


def test_readers_in_other_processes_see_whole_generations_only(built, encoder, tmp_path):
    readers = [
        subprocess.Popen([sys.executable, "-c", READER, str(built)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for reader in readers:
        assert reader.stdout.readline() == "ready\n"
    for _ in range(6):
        add_documents(built, MORE, encoder=encoder)
        delete_rows(built, where="number >= 100")
        compact_folder(built)
    (tmp_path / "stop").touch()
    opened = [int(reader.communicate(timeout=60)[0]) for reader in readers]
    assert [reader.returncode for reader in readers] == [0, 0]
    assert sum(opened) > 3


# Damage


@pytest.mark.parametrize("name", ["vectors.1.faiss", "index.1.faiss", "rows.1.sqlite", "manifest.json"])
def test_verify_names_a_file_with_one_bit_changed(tmp_path, encoder, name):
    options = IndexOptions(kind="ivf-sq8")
    SemanticSearch.build(DOCUMENTS, encoder=encoder, path=tmp_path / "i", options=options).close()
    check_folder(tmp_path / "i")
    data = bytearray((tmp_path / "i" / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "i" / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"{name} is damaged"):
        check_folder(tmp_path / "i")


def test_swapped_files_are_named(built, tmp_path, encoder):
    SemanticSearch.build(DOCUMENTS[::-1], encoder=encoder, path=tmp_path / "j").close()
    (tmp_path / "j" / "vectors.1.faiss").replace(built / "vectors.1.faiss")
    with pytest.raises(ArtifactError, match=r"vectors\.1\.faiss is damaged \(its sha256 differs\)"):
        check_folder(built)


def test_leftovers_of_a_killed_change_are_removed_by_the_next(built, encoder):
    for name in ("rows.2.sqlite", "vectors.2.faiss", "index.2.faiss", ".manifest.json.77.tmp"):
        (built / name).write_bytes(b"half-written")
    assert len(found(built, encoder)) == 40
    delete_rows(built, ids=["d1"])
    assert names(built) == ["manifest.json", "rows.2.sqlite", "vectors.1.faiss"]
    check_folder(built)


def test_failed_change_leaves_no_file(built, encoder, monkeypatch):
    before = names(built)

    def fail(*_, **__):
        raise KilledError

    monkeypatch.setattr(IndexManifest, "publish", fail)
    with pytest.raises(KilledError):
        add_documents(built, MORE, encoder=encoder)
    assert [name for name in names(built) if name != ".adding"] == before


# Older formats


def test_index_of_format_1_is_refused_with_the_way_out_and_migrated(tmp_path, old_index, fake_encoder):
    with pytest.raises(ArtifactError, match="an index of an older format: `ctxembed index compact .*` brings it"):
        SemanticSearch.open(old_index)
    assert compact_folder(old_index)
    assert names(old_index) == ["manifest.json", "rows.5.sqlite", "vectors.5.faiss"]
    with SemanticSearch.open(old_index, encoder=fake_encoder) as search:
        [hit] = search.search("river", k=1)
        assert (hit.id, hit.text, hit.metadata, len(search)) == ("a", "river", {"n": 1}, 2)
    check_folder(old_index)


@pytest.fixture
def old_index(tmp_path, fake_encoder):
    """An index of format 1 as its ctxembed wrote it, of generation 4."""
    import hashlib
    import sqlite3

    import faiss

    folder = tmp_path / "old"
    folder.mkdir()
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(16))
    index.add_with_ids(fake_encoder.encode(["money", "river"]), np.array([7, 3]))
    faiss.write_index(index, str(folder / "index.4.faiss"))
    connection = sqlite3.connect(folder / "rows.4.sqlite")
    connection.execute(
        'CREATE TABLE rows (number INTEGER PRIMARY KEY, id TEXT, text TEXT, "start" INTEGER, "end" INTEGER, '
        "metadata TEXT, content_hash TEXT)"
    )
    connection.execute(
        "INSERT INTO rows VALUES (3, 'a', 'river', NULL, NULL, '{\"n\": 1}', ''), "
        "(7, 'b', 'money', NULL, NULL, '{}', '')"
    )
    connection.commit()
    connection.close()
    files = {
        role: {
            "name": name,
            "bytes": len(data := (folder / name).read_bytes()),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        for role, name in (("index", "index.4.faiss"), ("rows", "rows.4.sqlite"))
    }
    model = {"name": "fake", "fingerprint": fake_encoder.fingerprint}
    manifest = {
        "format": "ctxembed-index",
        "version": 1,
        "generation": 4,
        "files": files,
        "model": model,
        "dimension": 16,
        "rows": 2,
        "metric": "cosine",
        "unit": "sentence",
        "num_zero": 0,
        "num_skipped": 0,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
