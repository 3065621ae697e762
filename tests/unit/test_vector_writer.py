from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ctxembed.errors import ArtifactError, DiskFullError, InvalidInputError
from ctxembed.types import Document
from ctxembed.vector_writer import VectorWriter, to_stored
from ctxembed.vectors import Manifest, Row, VectorFolder, from_stored

SETTINGS = {"model": "m", "fingerprint": "abc", "unit": "word", "layer": None}
DOCUMENTS = [Document(str(number), f"text {number} é") for number in range(10)]


def word_rows(document):
    """Two rows for each document, none for every fifth."""
    if int(document.id) % 5 == 4:
        return []
    return [Row(f"{document.id}.{i}", document.text, i, i + 2, {"n": i, "none": None}) for i in range(2)]


def vector_of(row):
    return np.random.default_rng(int(row.content_hash, 16)).standard_normal(4, dtype=np.float32)


def feed(writer, documents, *, stop_after=None, batch=2):
    """Append in batches as a program would; stop_after simulates a kill after that many batches."""
    stream = list(writer.skip_done(documents))
    for number, start in enumerate(range(0, len(stream), batch)):
        if number == stop_after:
            return
        chunk = stream[start : start + batch]
        rows = [row for document in chunk for row in word_rows(document)]
        vectors = np.array([vector_of(row) for row in rows], dtype=np.float32).reshape(-1, 4)
        writer.append(rows, vectors, documents=chunk)


def write(path, documents=DOCUMENTS, **options):
    with VectorWriter(path, settings=SETTINGS, dimension=4, part_rows=6, **options) as writer:
        feed(writer, documents)
    return VectorFolder.open(path)


def interrupted(path):
    """A folder with one finished part, of two appends, and a third append that was lost."""
    writer = VectorWriter(path, settings=SETTINGS, dimension=4, part_rows=6)
    feed(writer, DOCUMENTS, stop_after=3)
    return path


def test_half_precision_refuses_values_beyond_its_range(tmp_path):
    writer = VectorWriter(tmp_path / "v", settings={}, dimension=1, dtype="float16")
    with pytest.raises(InvalidInputError, match="65504"):
        writer.append([Row("a", "x")], np.array([[1e5]]), documents=[])


def test_a_zero_row_stays_zero_in_bytes():
    vectors = np.array([[0, 0], [1e-30, 0], [-3, 3]], dtype=np.float32)
    np.testing.assert_allclose(from_stored(to_stored(vectors, "int8")), vectors, rtol=1e-5)


@settings(deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(0, 5), st.integers(1, 6)), elements=st.floats(-1e6, 1e6, width=32)))
def test_bytes_are_off_by_half_a_step_at_most(vectors):
    step = np.abs(vectors).max(axis=1, keepdims=True, initial=0) / 127
    assert (np.abs(from_stored(to_stored(vectors, "int8")) - vectors) <= 0.5001 * step + 2e-36).all()


def test_resumed_run_in_bytes_equals_uninterrupted_run(tmp_path):
    write(tmp_path / "whole", dtype="int8")
    feed(
        VectorWriter(tmp_path / "v", settings=SETTINGS, dimension=4, part_rows=6, dtype="int8"), DOCUMENTS, stop_after=3
    )
    folder = write(tmp_path / "v", resume=True, dtype="int8")
    np.testing.assert_array_equal(folder.vectors(), VectorFolder.open(tmp_path / "whole").vectors())


def test_documents_without_rows_are_covered(tmp_path):
    folder = write(tmp_path / "v", documents=DOCUMENTS[4:5])
    assert (len(folder), folder.manifest.documents) == (0, 1)
    assert [vectors.shape for _, vectors in folder.iter_parts()] == [(0, 4)]


def test_caller_may_use_its_array_again(tmp_path):
    buffer = np.ones((1, 2), dtype=np.float32)
    with VectorWriter(tmp_path / "v", settings={}, dimension=2) as writer:
        writer.append([Row("a", "x")], buffer, documents=[])
        buffer[:] = 7
    np.testing.assert_array_equal(VectorFolder.open(tmp_path / "v").vectors(), [[1, 1]])


def test_two_equal_runs_give_equal_files(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b")
    names = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert len(names) == 7
    assert [(tmp_path / "a" / n).read_bytes() for n in names] == [(tmp_path / "b" / n).read_bytes() for n in names]


def test_resumed_run_equals_uninterrupted_run(tmp_path):
    write(tmp_path / "whole")
    interrupted(tmp_path / "killed")
    write(tmp_path / "killed", resume=True)
    names = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "killed").iterdir())
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_resume_does_not_compute_finished_documents_again(tmp_path):
    interrupted(tmp_path / "v")
    writer = VectorWriter(tmp_path / "v", settings=SETTINGS, dimension=4, resume=True)
    assert writer.documents == 4
    assert list(writer.skip_done(DOCUMENTS)) == DOCUMENTS[4:]


@pytest.mark.parametrize(
    "changed",
    [
        DOCUMENTS[1:],
        DOCUMENTS[:1],
        [DOCUMENTS[0], Document("1", "other"), *DOCUMENTS[2:]],
        [DOCUMENTS[0], Document("1", DOCUMENTS[1].text, {"year": 2020}), *DOCUMENTS[2:]],
    ],
)
def test_resume_refuses_changed_input(tmp_path, changed):
    interrupted(tmp_path / "v")
    writer = VectorWriter(tmp_path / "v", settings=SETTINGS, dimension=4, resume=True)
    with pytest.raises(ArtifactError, match="the input has changed since"):
        list(writer.skip_done(changed))


def test_resume_takes_metadata_in_any_order(tmp_path):
    documents = [Document(document.id, document.text, {"a": 1, "b": None}) for document in DOCUMENTS]
    turned = [Document(document.id, document.text, {"b": None, "a": 1}) for document in DOCUMENTS]
    writer = VectorWriter(tmp_path / "v", settings=SETTINGS, dimension=4, part_rows=6)
    feed(writer, documents, stop_after=3)
    again = VectorWriter(tmp_path / "v", settings=SETTINGS, dimension=4, resume=True)
    assert list(again.skip_done(turned)) == turned[4:]


def test_resume_without_skipping_is_refused(tmp_path):
    interrupted(tmp_path / "v")
    writer = VectorWriter(tmp_path / "v", settings=SETTINGS, dimension=4, resume=True)
    with pytest.raises(InvalidInputError, match="already covers 4 documents: pass the input through skip_done"):
        writer.append([], np.zeros((0, 4)), documents=DOCUMENTS)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"settings": SETTINGS | {"fingerprint": "xyz"}}, "fingerprint = 'abc', now it is 'xyz'"),
        ({"settings": SETTINGS | {"layer": 3}}, "layer = None, now it is 3"),
        ({"dimension": 5}, "dimension = 4, now it is 5"),
        ({"dtype": "float16"}, "dtype = 'float32', now it is 'float16'"),
    ],
)
def test_resume_with_other_settings_is_refused(tmp_path, change, message):
    interrupted(tmp_path / "v")
    with pytest.raises(ArtifactError, match=message):
        VectorWriter(tmp_path / "v", resume=True, **({"settings": SETTINGS, "dimension": 4} | change))


def test_unfinished_folder_needs_resume(tmp_path):
    interrupted(tmp_path / "v")
    with pytest.raises(InvalidInputError, match="--resume, or choose another -o"):
        VectorWriter(tmp_path / "v", settings=SETTINGS, dimension=4)


def test_complete_folder_is_refused(tmp_path):
    write(tmp_path / "v")
    with pytest.raises(InvalidInputError, match="delete it, or choose another -o"):
        VectorWriter(tmp_path / "v", settings=SETTINGS, dimension=4)


def test_complete_folder_is_left_alone_on_resume(tmp_path):
    write(tmp_path / "v")
    before = (tmp_path / "v" / "manifest.json").stat().st_mtime_ns
    with VectorWriter(tmp_path / "v", settings=SETTINGS, dimension=4, resume=True) as writer:
        assert writer.finished
        assert list(writer.skip_done(DOCUMENTS)) == []
    assert (tmp_path / "v" / "manifest.json").stat().st_mtime_ns == before


def test_complete_folder_refuses_longer_input_on_resume(tmp_path):
    write(tmp_path / "v")
    writer = VectorWriter(tmp_path / "v", settings=SETTINGS, dimension=4, resume=True)
    with pytest.raises(ArtifactError, match="more than the 10 documents"):
        list(writer.skip_done([*DOCUMENTS, Document("x", "new")]))


def test_complete_folder_refuses_appends(tmp_path):
    write(tmp_path / "v")
    writer = VectorWriter(tmp_path / "v", settings=SETTINGS, dimension=4, resume=True)
    with pytest.raises(InvalidInputError, match="finished with 16 rows"):
        writer.append([], np.zeros((0, 4)), documents=[])


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    folder = interrupted(tmp_path / "v")
    leftovers = ["part-00001.npy", ".part-00001.parquet.77.tmp", ".manifest.json.77.tmp"]
    for name in leftovers:
        (folder / name).touch()
    (folder / "mine.txt").touch()
    VectorWriter(folder, settings=SETTINGS, dimension=4, resume=True)
    assert sorted(file.name for file in folder.iterdir()) == [
        "manifest.json", "mine.txt", "part-00000.npy", "part-00000.parquet",
    ]  # fmt: skip


def test_failure_inside_the_block_leaves_the_folder_unfinished(tmp_path):
    with pytest.raises(KeyError), VectorWriter(tmp_path / "v", settings={}, dimension=4):
        raise KeyError
    assert not Manifest.read(tmp_path / "v").complete


def test_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InvalidInputError, match=r"'thesis\.txt' and is no vector folder"):
        VectorWriter(tmp_path, settings={}, dimension=4)


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "v").touch()
    with pytest.raises(InvalidInputError, match="is a file, need a folder"):
        VectorWriter(tmp_path / "v", settings={}, dimension=4)


def test_counts_of_rows_and_vectors_must_agree(tmp_path):
    writer = VectorWriter(tmp_path / "v", settings={}, dimension=4)
    with pytest.raises(InvalidInputError, match="1 rows came with 2 vectors"):
        writer.append([Row("a", "x")], np.zeros((2, 4)), documents=[])


@pytest.mark.parametrize("row", [Row("a", "\ud800"), Row("a", "x", metadata={"k": {1}})])
def test_row_that_cannot_be_stored_is_named(tmp_path, row):
    writer = VectorWriter(tmp_path / "v", settings={}, dimension=1)
    with pytest.raises(InvalidInputError, match="between 'a' and 'a' cannot be stored"):
        writer.append([row], np.zeros((1, 1)), documents=[])


@pytest.mark.parametrize("option", ["dimension", "part_rows"])
def test_sizes_below_one_are_refused(tmp_path, option):
    with pytest.raises(InvalidInputError, match="both must be at least 1"):
        VectorWriter(tmp_path / "v", **{"settings": {}, "dimension": 4, option: 0})


def test_resume_refuses_a_changed_byte(tmp_path):
    folder = interrupted(tmp_path / "v")
    with (folder / "part-00000.npy").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ArtifactError, match=r"part-00000\.npy is damaged"):
        VectorWriter(folder, settings=SETTINGS, dimension=4, resume=True)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(1, 9))
def test_parts_never_split_an_append(tmp_path_factory, sizes, part_rows):
    path = tmp_path_factory.mktemp("v") / "v"
    with VectorWriter(path, settings={}, dimension=1, part_rows=part_rows) as writer:
        for number, size in enumerate(sizes):
            rows = [Row(f"{number}.{i}", "") for i in range(size)]
            writer.append(rows, np.full((size, 1), number, dtype=np.float32), documents=[])
    folder = VectorFolder.open(path)
    owners = [{row.id.split(".")[0] for row in rows} for rows, _ in folder.iter_parts()]
    assert len(folder) == sum(sizes)
    assert sum(map(len, owners)) == len(sizes)
    assert all(part.rows >= part_rows for part in folder.manifest.parts[:-1])


def test_a_mistake_before_the_first_part_leaves_nothing_in_the_way(tmp_path):
    with (
        pytest.raises(InvalidInputError, match="wrong"),
        VectorWriter(tmp_path / "v", settings=SETTINGS, dimension=4),
    ):
        raise InvalidInputError("wrong column")
    assert not (tmp_path / "v").exists()
    assert len(write(tmp_path / "v")) > 0


def test_a_mistake_after_a_part_keeps_what_is_finished(tmp_path):
    def documents():
        yield from DOCUMENTS[:6]
        raise InvalidInputError("row 7 is malformed")

    def write_until_the_mistake():
        with VectorWriter(tmp_path / "v", settings=SETTINGS, dimension=4, part_rows=6) as writer:
            for document in writer.skip_done(documents()):
                rows = word_rows(document)
                writer.append(rows, np.array([vector_of(row) for row in rows]).reshape(-1, 4), documents=[document])

    with pytest.raises(InvalidInputError, match="row 7"):
        write_until_the_mistake()
    assert len(write(tmp_path / "v", resume=True)) == len(write(tmp_path / "whole"))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_the_loss_of_storage_is_measured_on_every_row(tmp_path, dtype):
    vectors = np.random.default_rng(1).standard_normal((50, 4), dtype=np.float32)
    vectors[7] = 0  # says nothing about the loss
    with VectorWriter(tmp_path / "v", settings={}, dimension=4, dtype=dtype) as writer:
        for first in (0, 20):
            block = vectors[first : first + 20 + first // 2]
            writer.append([Row(str(i), "x") for i in range(len(block))], block, documents=[])
    stored = VectorFolder.open(tmp_path / "v").vectors()
    there = vectors.any(axis=1)
    dot = (stored.astype(float) * vectors).sum(axis=1)[there]
    cosines = dot / (np.linalg.norm(stored, axis=1) * np.linalg.norm(vectors, axis=1))[there]
    assert writer.loss.rows == 49
    assert writer.loss.mean == pytest.approx(cosines.mean(), abs=1e-7)
    assert writer.loss.worst == pytest.approx(cosines.min(), abs=1e-7)
    assert 0.99 < writer.loss.worst < writer.loss.mean < 1


def test_float32_loses_nothing_and_measures_nothing(tmp_path):
    with VectorWriter(tmp_path / "v", settings=SETTINGS, dimension=4) as writer:
        feed(writer, DOCUMENTS)
    assert (writer.loss.rows, writer.loss.worst) == (0, 1.0)


@pytest.mark.skipif(sys.platform != "linux", reason="the names of open files are read from /proc")
@pytest.mark.parametrize("failing", ["part-00000.npy", "part-00000.parquet", "part-00001.npy", "manifest.json"])
def test_a_full_disk_keeps_what_is_finished_and_resumes(tmp_path, monkeypatch, failing):
    write(tmp_path / "whole")
    real, synced = os.fsync, []

    def no_room(descriptor):
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        synced.append(name)
        if failing in name and (failing != "manifest.json" or len(synced) > 5):  # not the one of the beginning
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        with pytest.raises(DiskFullError, match=rf"the disk is full: .*{failing} could not be written"):
            write(tmp_path / "v")
    assert not any(path.name.endswith(".tmp") for path in (tmp_path / "v").iterdir())
    with pytest.raises(InvalidInputError, match="continue it with --resume"):
        write(tmp_path / "v")
    write(tmp_path / "v", resume=True)
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "v").iterdir())
    assert all((tmp_path / "v" / n).read_bytes() == (tmp_path / "whole" / n).read_bytes() for n in names)
