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
from ctxembed.index import kinds as index_kinds
from ctxembed.index import updates as index_updates
from ctxembed.index.changes import compact_folder, delete_rows, locked
from ctxembed.index.folder import check_folder
from ctxembed.index.kinds import IndexOptions
from ctxembed.index.manifest import IndexManifest
from ctxembed.index.updates import add_documents, add_vectors
from ctxembed.search import SemanticSearch
from ctxembed.types import Document
from ctxembed.units import embed_corpus
from ctxembed.vector_writer import VectorWriter
from ctxembed.vectors import Row, VectorFolder, encoder_settings

WORDS = ("river", "bank", "money", "loan", "water", "boat", "tree", "leaf", "stone", "fish", "coin", "debt")
RNG = np.random.default_rng(0)
DOCUMENTS = [
    Document(f"d{number}", " ".join(RNG.choice(WORDS, size=4)), {"number": number, "even": number % 2 == 0})
    for number in range(40)
]
MORE = [Document(f"e{number}", f"{WORDS[number]} {WORDS[number - 1]}", {"number": 100 + number}) for number in range(9)]


@dataclasses.dataclass
class CountingEncoder:
    """Counts the texts that are really encoded."""

    encoder: object
    texts: int = 0

    def __getattr__(self, name):
        return getattr(self.encoder, name)

    def encode(self, texts, *, prompt=None):
        self.texts += len(texts)
        return self.encoder.encode(texts, prompt=prompt)


@pytest.fixture
def encoder(fake_encoder):
    return CountingEncoder(fake_encoder)


@pytest.fixture
def built(tmp_path, encoder):
    SemanticSearch.build(DOCUMENTS, encoder=encoder, path=tmp_path / "i").close()
    encoder.texts = 0
    return tmp_path / "i"


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def found(path, encoder, query="river bank", **options):
    with SemanticSearch.open(path, encoder=encoder) as search:
        return [hit.id for hit in search.search(query, k=1000, **options)]


def same_as_built_from(path, documents, tmp_path, encoder):
    """The index answers like one that was built of these documents."""
    with (
        SemanticSearch.build(documents, encoder=encoder, path=tmp_path / "expected", overwrite=True) as expected,
        SemanticSearch.open(path, encoder=encoder) as search,
    ):
        for query in ("river bank", "money"):
            got, wanted = (
                {hit.id: (round(hit.score, 5), hit.text, hit.metadata) for hit in each.search(query, k=1000)}
                for each in (search, expected)
            )
            assert got == wanted
    check_folder(path)


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


def limited(path, encoder, monkeypatch, *, kind, room):
    """Build an index with a limit of memory that leaves some room; more than ten rows count as many."""
    for module in (index_changes, index_kinds):
        monkeypatch.setattr(module, "FLAT_VALUES", 10 * 16)
    options = IndexOptions(kind=kind)
    SemanticSearch.build(DOCUMENTS, encoder=encoder, path=path, options=options).close()
    options = IndexOptions(kind=kind, max_memory=memory(path) + room)
    SemanticSearch.build(DOCUMENTS, encoder=encoder, path=path, options=options, overwrite=True).close()
    return path


def memory(path):
    return sum(round(index.bytes_per_row * index.rows) for index in IndexManifest.read(path).indexes)


@pytest.mark.parametrize(
    "kind, room, count, kinds",
    [
        ("ivf-sq8", 600, 9, ["ivf-sq8", "flat"]),  # 576 bytes for 9 rows
        ("ivf-sq8", 400, 9, ["ivf-sq8", "ivf-sq8"]),  # 280 bytes
        ("ivf-sq8", 200, 9, ["ivf-sq8"]),  # of all rows: there is no room for another index beside
        ("ivf-sq8", 10**4, 40, ["ivf-sq8", "ivf-sq8"]),  # too large to compare every vector
        ("hnsw", 10**4, 9, ["hnsw", "flat"]),
        ("IVF2,Flat", 10**4, 9, ["IVF2,Flat", "flat"]),
        ("auto", 400, 9, ["hnsw", "ivf-sq8"]),
        ("auto", 260, 9, ["ivf-sq8"]),
    ],
)
def test_additions_keep_the_limit_of_memory(tmp_path, encoder, monkeypatch, kind, room, count, kinds):
    path = limited(tmp_path / "i", encoder, monkeypatch, kind=kind, room=room)
    new = [Document(f"n{n}", f"{WORDS[n % 12]} {WORDS[n % 7]}") for n in range(count)]
    met = add_documents(path, new, encoder=encoder)
    indexes = IndexManifest.read(path).indexes
    assert [index.kind for index in indexes] == kinds
    assert met.index == indexes[-1]
    assert memory(path) <= IndexManifest.read(path).options.max_memory + 400  # headers of small files
    same_as_built_from(path, [*DOCUMENTS, *new], tmp_path, encoder)


def test_addition_beyond_the_limit_of_memory_is_refused_and_nothing_changes(tmp_path, encoder, monkeypatch):
    path = limited(tmp_path / "i", encoder, monkeypatch, kind="ivf-sq8", room=0)
    before = (path / "manifest.json").read_bytes()
    new = [Document(f"n{n}", "river bank") for n in range(40)]
    with pytest.raises(InvalidInputError, match=r"no room for the new rows in its limit of .* a larger --max-memory"):
        add_documents(path, new, encoder=encoder)
    assert (path / "manifest.json").read_bytes() == before
    assert [name for name in names(path) if name != ".adding"] == [
        "index.2.faiss", "manifest.json", "rows.2.sqlite", "vectors.2.faiss"
    ]  # fmt: skip
    delete_rows(path, where="number >= 20")
    compact_folder(path)
    assert add_documents(path, new[:10], encoder=encoder, restart=True).rows == 30


def test_large_addition_without_a_limit_is_of_the_kind_that_was_asked_for(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(index_changes, "FLAT_VALUES", 10 * 16)
    SemanticSearch.build(DOCUMENTS, encoder=encoder, path=tmp_path / "i", options=IndexOptions(kind="ivf-pq")).close()
    assert add_documents(tmp_path / "i", MORE, encoder=encoder).index.kind == "flat"
    new = [Document(f"n{n}", f"{WORDS[n % 12]} {WORDS[n % 7]}") for n in range(40)]
    assert add_documents(tmp_path / "i", new, encoder=encoder).index.kind == "ivf-pq"


def test_documents_that_are_there_are_not_embedded_again(built, encoder):
    met = add_documents(built, [*DOCUMENTS[:7], *MORE[:2]], encoder=encoder)
    assert (met.summary(), encoder.texts) == ("2 added, 7 unchanged", 2)


def test_nothing_new_writes_nothing(built, encoder):
    before = (built / "manifest.json").read_bytes()
    assert add_documents(built, DOCUMENTS, encoder=encoder).summary() == "40 unchanged"
    assert (built / "manifest.json").read_bytes() == before


CHANGED = [Document("d3", "a new text", {"number": 3}), dataclasses.replace(DOCUMENTS[4], metadata={"number": 99})]


def test_update_replaces_texts_and_metadata_and_embeds_only_texts(built, encoder, tmp_path):
    met = add_documents(built, [*CHANGED, DOCUMENTS[5], MORE[0]], encoder=encoder, on_existing="update")
    assert met.summary() == "1 added, 1 updated, 1 with new metadata only, 1 unchanged"
    assert encoder.texts == 2
    same_as_built_from(built, [*DOCUMENTS[:3], *CHANGED, *DOCUMENTS[5:], MORE[0]], tmp_path, encoder)
    assert IndexManifest.read(built).deleted == 1


def vectors_of(path, documents, encoder, **settings):
    """A vector folder of documents, in parts of three."""
    settings = encoder_settings(encoder, unit="sentence") | settings
    with VectorWriter(path, settings=settings, dimension=encoder.dimension, part_rows=3) as writer:
        for document in documents:
            row = Row(document.id, document.text, metadata=document.metadata)
            writer.append([row], encoder.encode([document.text]), documents=[document])
    return VectorFolder.open(path)


def test_added_vectors_are_found_like_documents(built, encoder, tmp_path):
    vectors = vectors_of(tmp_path / "v", [DOCUMENTS[0], *MORE], encoder)
    met = add_vectors(built, vectors)
    assert (met.summary(), met.rows) == ("9 added, 1 unchanged", 49)
    same_as_built_from(built, [*DOCUMENTS, *MORE], tmp_path, encoder)
    before = (built / "manifest.json").read_bytes()
    assert add_vectors(built, vectors).summary() == "10 unchanged"
    assert (built / "manifest.json").read_bytes() == before


def test_vectors_update_texts_and_metadata(built, encoder, tmp_path):
    vectors = vectors_of(tmp_path / "v", [*CHANGED, DOCUMENTS[5], MORE[0]], encoder)
    with pytest.raises(InvalidInputError, match="id 'd3' is in .* with other text: `ctxembed index update`"):
        add_vectors(built, vectors)
    assert (
        add_vectors(built, vectors, on_existing="skip").summary()
        == "1 added, 1 unchanged, 2 skipped: their id was taken"
    )
    assert add_vectors(built, vectors, on_existing="update").summary() == (
        "1 updated, 1 with new metadata only, 2 unchanged"
    )
    same_as_built_from(built, [*DOCUMENTS[:3], *CHANGED, *DOCUMENTS[5:], MORE[0]], tmp_path, encoder)


def test_added_words_belong_to_their_text(tmp_path, encoder):
    text = "river bank river"
    settings = {"model": "fake", "fingerprint": "f", "unit": "word"}
    spans = [(0, 5), (6, 10), (11, 16)]

    def words(name):
        rows = [Row(f"{name}#{start}-{end}", text, start, end) for start, end in spans]
        return rows, encoder.encode([text[start:end] for start, end in spans])

    SemanticSearch.build_from_vectors([words("a")], settings=settings, dimension=16, path=tmp_path / "i").close()
    with VectorWriter(tmp_path / "v", settings=settings, dimension=16) as writer:
        for name in "ab":
            writer.append(*words(name), documents=[Document(name, text)])
    met = add_vectors(tmp_path / "i", VectorFolder.open(tmp_path / "v"))
    assert (met.summary(), met.rows) == ("1 added, 1 unchanged", 6)
    with SemanticSearch.open(tmp_path / "i") as search:
        assert [row.id for row in search.rows(search.numbers())] == [f"{n}#{a}-{b}" for n in "ab" for a, b in spans]
    check_folder(tmp_path / "i")


class WordEncoder(CountingEncoder):
    """The encoder of the tests, with vectors of single words."""

    def encode_usages(self, usages, *, layer=None):
        return self.encode([usage.word for usage in usages])


@pytest.fixture
def built_of_words(tmp_path, fake_encoder):
    """An index of all words of six documents, made of a vector folder."""
    encoder = WordEncoder(fake_encoder)
    vectors = embed_corpus(DOCUMENTS[:6], encoder=encoder, path=tmp_path / "words", unit="word")
    options = {"settings": vectors.settings, "dimension": 16, "path": tmp_path / "w"}
    SemanticSearch.build_from_vectors(vectors.iter_parts(), **options).close()
    return tmp_path / "w"


TWICE = [*MORE[:2], dataclasses.replace(MORE[0], text="loan debt"), MORE[1]]


def test_texts_are_counted_not_their_words_where_an_id_comes_twice(built_of_words, fake_encoder):
    met = add_documents(built_of_words, TWICE, encoder=WordEncoder(fake_encoder), on_existing="skip")
    assert (met.summary(), met.rows) == ("2 added, 2 skipped: their id was taken", 6 * 4 + 2 * 2)
    assert check_folder(built_of_words).num_skipped == 4  # rows


@pytest.mark.parametrize("documents", [TWICE, TWICE[::2]])
def test_vectors_of_an_id_that_comes_twice_are_counted(built, encoder, tmp_path, documents):
    met = add_vectors(built, vectors_of(tmp_path / "v", documents, encoder), on_existing="skip")
    half = len(documents) // 2
    assert (met.summary(), met.rows) == (f"{half} added, {half} skipped: their id was taken", 40 + half)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"fingerprint": "1" * 64}, r"made with fake \(.*, the vectors with fake \(111111111111\)"),
        ({"unit": "word"}, "has unit 'sentence', the vectors 'word'"),
        ({"layer": 2}, "has layer None, the vectors 2"),
    ],
)
def test_vectors_made_otherwise_are_refused(built, encoder, tmp_path, settings, message):
    with pytest.raises(ArtifactError, match=message):
        add_vectors(built, vectors_of(tmp_path / "v", MORE, encoder, **settings))


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


class KilledError(Exception):
    """Stands for a kill."""


def test_interrupted_addition_is_continued_or_discarded(built, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("ctxembed.index.updates.PART_ROWS", 2)

    documents = [*DOCUMENTS[:2], *MORE]
    done = []

    def report(count):
        done.append(count)
        if sum(done) == 6:
            raise KilledError

    with pytest.raises(KilledError):
        add_documents(built, documents, encoder=encoder, batch_size=2, on_progress=report)
    assert IndexManifest.read(built).rows == 40
    with pytest.raises(InvalidInputError, match="holds an interrupted addition: continue it with --resume, or discard"):
        add_documents(built, documents, encoder=encoder)
    with pytest.raises(ArtifactError, match="the input has changed .* or discard what was begun with --restart"):
        add_documents(built, MORE[1:], encoder=encoder, resume=True)
    encoder.texts = 0
    add_documents(built, documents, encoder=encoder, resume=True, batch_size=2)
    assert encoder.texts == 3
    same_as_built_from(built, [*DOCUMENTS, *MORE], tmp_path, encoder)


def killed_after_publishing(path, documents, encoder, monkeypatch, **options):
    """Add documents, and stop before the vectors that waited are removed."""

    def kill(*_, **__):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(index_updates.shutil, "rmtree", lambda folder, **_: kill() if folder.exists() else None)
        with pytest.raises(KilledError):
            add_documents(path, documents, encoder=encoder, **options)
    assert ".adding" in names(path)


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("left", ["everything", "no manifest"])
def test_addition_killed_when_it_was_published_is_there_and_in_nobodys_way(
    built, encoder, tmp_path, monkeypatch, left, resume
):
    killed_after_publishing(built, MORE[:4], encoder, monkeypatch)
    if left == "no manifest":  # killed while the vectors were being removed
        (built / ".adding" / "manifest.json").unlink()
    met = add_documents(built, MORE[:4], encoder=encoder, resume=resume)
    assert (met.summary(), met.rows) == ("4 unchanged", 44)
    assert ".adding" not in names(built)
    assert add_documents(built, MORE, encoder=encoder, resume=resume).summary() == "5 added, 4 unchanged"
    same_as_built_from(built, [*DOCUMENTS, *MORE], tmp_path, encoder)


def test_published_update_is_known_after_other_changes_too(built, encoder, monkeypatch):
    killed_after_publishing(built, [*CHANGED, MORE[0]], encoder, monkeypatch, on_existing="update")
    delete_rows(built, ids=["d3", "d9"])
    compact_folder(built)
    met = add_documents(built, [*CHANGED, MORE[0]], encoder=encoder, on_existing="update", resume=True)
    assert met.summary() == "1 added, 2 unchanged"
    assert check_folder(built).rows == 40


def test_interrupted_addition_waits_through_other_changes(built, encoder, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KilledError

    add_documents(built, MORE[:1], encoder=encoder)
    with monkeypatch.context() as patch:
        patch.setattr(IndexManifest, "publish", fail)
        with pytest.raises(KilledError):
            add_documents(built, MORE[1:], encoder=encoder)
    delete_rows(built, ids=["d1"])
    encoder.texts = 0
    with pytest.raises(InvalidInputError, match="holds an interrupted addition"):
        add_documents(built, MORE[1:], encoder=encoder)
    assert add_documents(built, MORE[1:], encoder=encoder, resume=True).summary() == "8 added"
    assert encoder.texts == 0
    same_as_built_from(built, [DOCUMENTS[0], *DOCUMENTS[2:], *MORE], tmp_path, encoder)


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
