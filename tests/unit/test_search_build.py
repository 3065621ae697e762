"""Building an index of text: progress, duplicates, interruptions, folders that are taken."""

from __future__ import annotations

import dataclasses

import pytest

from ctxembed import search as search_module
from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.search import SemanticSearch
from ctxembed.types import Document
from ctxembed.vector_writer import VectorWriter

from .search_samples import DOCUMENTS, names


@pytest.fixture
def built(tmp_path, fake_encoder):
    with SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i", batch_size=7) as search:
        yield search


def test_progress_adds_up_to_the_documents(tmp_path, fake_encoder):
    seen = []
    options = {"batch_size": 7, "on_progress": seen.append}
    SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i", **options).close()
    assert seen == [7, 7, 7, 7, 7, 5]


def test_batch_size_below_one_is_refused(tmp_path, fake_encoder):
    with pytest.raises(InvalidInputError, match="batch_size is 0"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i", batch_size=0)


def test_duplicate_id_is_refused_and_the_work_is_kept(tmp_path, fake_encoder):
    documents = [*DOCUMENTS, Document("d3", "another")]
    with pytest.raises(InvalidInputError, match="id 'd3' occurs twice"):
        SemanticSearch.build(documents, encoder=fake_encoder, path=tmp_path / "i")
    assert names(tmp_path / "i") == [".building"]
    options = {"on_duplicate": "skip", "resume": True}
    with SemanticSearch.build(documents, encoder=fake_encoder, path=tmp_path / "i", **options) as search:
        assert (len(search), search.manifest.num_skipped) == (40, 1)
        assert search.search(DOCUMENTS[3].text, k=40) != []


class KilledError(Exception):
    """Stands for a kill while encoding."""


@dataclasses.dataclass
class FragileEncoder:
    """The encoder it is given, until the n-th call."""

    encoder: object
    calls_left: int

    def __getattr__(self, name):
        return getattr(self.encoder, name)

    def encode(self, texts, *, prompt=None):
        self.calls_left -= 1
        if self.calls_left < 0:
            raise KilledError
        return self.encoder.encode(texts, prompt=prompt)


@pytest.fixture
def killed(tmp_path, fake_encoder, monkeypatch):
    """A build that stopped after 28 of 40 documents, 24 of them in finished parts."""
    monkeypatch.setattr(search_module, "PART_ROWS", 10)
    with pytest.raises(KilledError):
        SemanticSearch.build(DOCUMENTS, encoder=FragileEncoder(fake_encoder, 7), path=tmp_path / "i", batch_size=4)
    return tmp_path / "i"


def test_resumed_build_equals_an_uninterrupted_one(killed, tmp_path, fake_encoder):
    options = {"encoder": fake_encoder, "batch_size": 4}
    seen = []
    SemanticSearch.build(DOCUMENTS, path=killed, resume=True, on_progress=seen.append, **options).close()
    SemanticSearch.build(DOCUMENTS, path=tmp_path / "whole", **options).close()
    assert seen == [24, 4, 4, 4, 4]
    assert names(killed) == names(tmp_path / "whole")
    for name in names(killed):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_unfinished_build_is_no_index(killed):
    with pytest.raises(MissingInputError, match=r"manifest\.json does not exist"):
        SemanticSearch.open(killed)


def test_unfinished_build_needs_a_decision(killed, fake_encoder):
    with pytest.raises(InvalidInputError, match="--resume, start again with --overwrite, or choose another -o"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=killed)


@pytest.fixture
def killed_overwrite(built, tmp_path, fake_encoder, monkeypatch):
    """An index of 40 rows, and beside it a build in other order that stopped after 24 documents in finished parts."""
    monkeypatch.setattr(search_module, "PART_ROWS", 10)
    fragile = FragileEncoder(fake_encoder, 7)
    with pytest.raises(KilledError):
        SemanticSearch.build(DOCUMENTS[::-1], encoder=fragile, path=tmp_path / "i", batch_size=4, overwrite=True)
    return tmp_path / "i"


def test_killed_overwrite_is_continued_and_replaces_the_index(killed_overwrite, fake_encoder):
    seen = []
    options = {"encoder": fake_encoder, "batch_size": 4, "resume": True, "on_progress": seen.append}
    with SemanticSearch.build(DOCUMENTS[::-1], path=killed_overwrite, **options) as search:
        assert (len(search), search.manifest.generation) == (40, 2)
    assert seen == [24, 4, 4, 4, 4]
    assert names(killed_overwrite) == ["manifest.json", "rows.2.sqlite", "vectors.2.faiss"]


def test_killed_overwrite_needs_a_decision(killed_overwrite, fake_encoder):
    with pytest.raises(InvalidInputError, match="holds an unfinished build: continue it with --resume"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=killed_overwrite)


def test_resume_of_a_finished_index_is_refused(built, tmp_path, fake_encoder):
    with pytest.raises(InvalidInputError, match="holds an index of 40 rows: --overwrite it, or choose another -o"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i", resume=True)


def test_unfinished_build_is_discarded_on_overwrite(killed, fake_encoder):
    with SemanticSearch.build(DOCUMENTS[:3], encoder=fake_encoder, path=killed, overwrite=True) as search:
        assert len(search) == 3
    assert names(killed) == ["manifest.json", "rows.1.sqlite", "vectors.1.faiss"]


def test_resume_with_another_model_is_refused(killed, fake_encoder):
    other = dataclasses.replace(fake_encoder, name="other")
    with pytest.raises(ArtifactError, match="was begun with fingerprint"):
        SemanticSearch.build(DOCUMENTS, encoder=other, path=killed, resume=True)


def test_resume_with_other_documents_is_refused(killed, fake_encoder):
    with pytest.raises(ArtifactError, match="the input has changed"):
        SemanticSearch.build(DOCUMENTS[1:], encoder=fake_encoder, path=killed, resume=True)


def test_existing_index_is_not_replaced_unasked(built, tmp_path, fake_encoder):
    with pytest.raises(InvalidInputError, match="holds an index of 40 rows: --overwrite it, or choose another -o"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i")


def test_overwrite_replaces_the_generation(built, tmp_path, fake_encoder):
    with SemanticSearch.build(DOCUMENTS[:3], encoder=fake_encoder, path=tmp_path / "i", overwrite=True) as search:
        assert (len(search), search.manifest.generation) == (3, 2)
    assert names(tmp_path / "i") == ["manifest.json", "rows.2.sqlite", "vectors.2.faiss"]


def test_failed_overwrite_leaves_the_old_index(built, tmp_path, fake_encoder):
    with pytest.raises(KilledError):
        SemanticSearch.build(DOCUMENTS, encoder=FragileEncoder(fake_encoder, 0), path=tmp_path / "i", overwrite=True)
    with SemanticSearch.open(tmp_path / "i", encoder=fake_encoder) as search:
        assert len(search.search("river", k=100)) == 40


def damaged(folder, change):
    """Change the bytes of a manifest."""
    (folder / "manifest.json").write_bytes(change((folder / "manifest.json").read_bytes()))
    with pytest.raises(ArtifactError):
        SemanticSearch.open(folder)


DAMAGE = {
    "empty": lambda data: b"",
    "cut off": lambda data: data[:99],
    "another byte": lambda data: data.replace(b'"rows": 40', b'"rows": 41'),
    "no text": lambda data: b"\xff" + data,
    "a later version": lambda data: data.replace(b'"version": 2', b'"version": 9'),
    "a damaged index of format 1": lambda data: b'{"format": "ctxembed-index", "version": 1}',
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_index_with_a_damaged_manifest_is_replaced_by_overwrite(built, tmp_path, fake_encoder, change):
    damaged(tmp_path / "i", change)
    with pytest.raises(InvalidInputError, match=r"an index (that cannot be read|of an older format): --overwrite"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i")
    with SemanticSearch.build(DOCUMENTS[:3], encoder=fake_encoder, path=tmp_path / "i", overwrite=True) as search:
        assert (len(search), search.manifest.generation) == (3, 2)
    assert names(tmp_path / "i") == ["manifest.json", "rows.2.sqlite", "vectors.2.faiss"]


def test_failed_overwrite_of_a_damaged_index_says_why_and_leaves_its_files(built, tmp_path, fake_encoder, monkeypatch):
    damaged(tmp_path / "i", DAMAGE["cut off"])
    before = {name: (tmp_path / "i" / name).read_bytes() for name in names(tmp_path / "i")}

    def fail(*_):
        raise KilledError

    monkeypatch.setattr("ctxembed.index.manifest.IndexManifest.publish", fail)
    with pytest.raises(KilledError):
        SemanticSearch.build(DOCUMENTS[:3], encoder=fake_encoder, path=tmp_path / "i", overwrite=True)
    assert names(tmp_path / "i") == [".building", *before]
    assert all((tmp_path / "i" / name).read_bytes() == data for name, data in before.items())


@pytest.mark.parametrize(
    "change, files, message",
    [
        (lambda data: data.replace(b"ctxembed-index", b"another-index"), [], "has format 'another-index'"),
        (lambda data: b"[1]", [], "has format"),
        (lambda data: b"{", ["thesis.txt"], "is damaged"),
    ],
)
def test_manifest_that_may_be_somebody_elses_is_not_overwritten(built, tmp_path, fake_encoder, change, files, message):
    damaged(tmp_path / "i", change)
    for name in files:
        (tmp_path / "i" / name).touch()
    before = names(tmp_path / "i")
    with pytest.raises(ArtifactError, match=message):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i", overwrite=True)
    assert names(tmp_path / "i") == before


def test_damaged_manifest_alone_is_not_overwritten(tmp_path, fake_encoder):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="is damaged"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_with_other_things_is_refused(tmp_path, fake_encoder, overwrite):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InvalidInputError, match=r"'thesis\.txt' and is no index"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path, overwrite=overwrite)


def test_another_kind_of_artefact_is_never_overwritten(tmp_path, fake_encoder):
    VectorWriter(tmp_path / "v", settings={}, dimension=4).finish()
    with pytest.raises(ArtifactError, match="has format 'ctxembed-vectors', need 'ctxembed-index'"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "v", overwrite=True)


def test_file_in_place_of_the_folder_is_refused(tmp_path, fake_encoder):
    (tmp_path / "i").touch()
    with pytest.raises(InvalidInputError, match="is a file, need a folder"):
        SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i")
