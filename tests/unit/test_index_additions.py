"""Additions to an index: of vectors, within a limit of memory, of ids that come twice, interrupted."""

from __future__ import annotations

import dataclasses

import pytest

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.index import changes as index_changes
from ctxembed.index import kinds as index_kinds
from ctxembed.index import updates as index_updates
from ctxembed.index.changes import compact_folder, delete_rows
from ctxembed.index.folder import check_folder
from ctxembed.index.kinds import IndexOptions
from ctxembed.index.manifest import IndexManifest
from ctxembed.index.updates import add_documents, add_vectors
from ctxembed.search import SemanticSearch
from ctxembed.types import Document
from ctxembed.units import embed_corpus
from ctxembed.vector_writer import VectorWriter
from ctxembed.vectors import Row, VectorFolder, encoder_settings

from .index_samples import CHANGED, DOCUMENTS, MORE, WORDS, CountingEncoder, KilledError, names, same_as_built_from


@pytest.fixture
def encoder(fake_encoder):
    return CountingEncoder(fake_encoder)


@pytest.fixture
def built(tmp_path, encoder):
    SemanticSearch.build(DOCUMENTS, encoder=encoder, path=tmp_path / "i").close()
    encoder.texts = 0
    return tmp_path / "i"


# Vectors and words


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


# Memory


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


# Interruptions


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
        patch.setattr(index_updates, "_discard", lambda folder: kill() if folder.exists() else None)
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
