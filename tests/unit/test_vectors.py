from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.types import Document
from ctxembed.vectors import Manifest, Row, VectorFolder, VectorWriter, checked_vectors, encoder_settings, read_foreign

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


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_content_hash_differs_by_text_and_span():
    rows = [Row("a", "x"), Row("a", "y"), Row("a", "x", 0, 1), Row("a", "x", 0, 2)]
    assert len({row.content_hash for row in rows}) == 4
    assert Row("a", "x").content_hash == Row("b", "x").content_hash


def test_folder_gives_back_rows_and_vectors(tmp_path):
    folder = write(tmp_path / "v")
    expected = [row for document in DOCUMENTS for row in word_rows(document)]
    assert len(folder) == len(expected) == 16
    assert len(folder.manifest.parts) > 2
    assert list(folder.rows()) == expected
    np.testing.assert_array_equal(folder.vectors(), [vector_of(row) for row in expected])


def test_parts_join_to_all_rows(tmp_path):
    folder = write(tmp_path / "v")
    parts = list(folder.iter_parts())
    assert [row for rows, _ in parts for row in rows] == list(folder.rows())
    np.testing.assert_array_equal(np.concatenate([vectors for _, vectors in parts]), folder.vectors())
    assert {vectors.dtype for _, vectors in parts} == {np.dtype(np.float32)}


def test_single_part_stays_memory_mapped(tmp_path):
    with VectorWriter(tmp_path / "v", settings={}, dimension=4) as writer:
        feed(writer, DOCUMENTS)
    assert isinstance(VectorFolder.open(tmp_path / "v").vectors(), np.memmap)


def test_half_precision_is_read_as_float32(tmp_path):
    folder = write(tmp_path / "v", dtype="float16")
    expected = np.array([vector_of(row) for row in folder.rows()]).astype(np.float16)
    assert folder.vectors().dtype == np.float32
    np.testing.assert_array_equal(folder.vectors(), expected.astype(np.float32))


def test_half_precision_refuses_values_beyond_its_range(tmp_path):
    writer = VectorWriter(tmp_path / "v", settings={}, dimension=1, dtype="float16")
    with pytest.raises(InvalidInputError, match="65504"):
        writer.append([Row("a", "x")], np.array([[1e5]]), documents=[])


def test_empty_folder_is_legal(tmp_path):
    folder = write(tmp_path / "v", documents=[])
    assert len(folder) == 0
    assert folder.vectors().shape == (0, 4)
    assert list(folder.iter_parts()) == list(folder.rows()) == []


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


@pytest.mark.parametrize("changed", [DOCUMENTS[1:], DOCUMENTS[:1], [DOCUMENTS[0], Document("1", "other")]])
def test_resume_refuses_changed_input(tmp_path, changed):
    interrupted(tmp_path / "v")
    writer = VectorWriter(tmp_path / "v", settings=SETTINGS, dimension=4, resume=True)
    with pytest.raises(ArtifactError, match="the input has changed since"):
        list(writer.skip_done(changed))


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


def test_open_refuses_an_unfinished_folder(tmp_path):
    interrupted(tmp_path / "v")
    with pytest.raises(ArtifactError, match=r"unfinished \(8 rows so far\): finish it with --resume"):
        VectorFolder.open(tmp_path / "v")


@pytest.mark.parametrize("name", ["part-00001.npy", "part-00001.parquet"])
def test_open_refuses_a_changed_byte(tmp_path, name):
    write(tmp_path / "v")
    file = tmp_path / "v" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"{name} is damaged \(its sha256 differs\)"):
        VectorFolder.open(tmp_path / "v")


def test_resume_refuses_a_changed_byte(tmp_path):
    folder = interrupted(tmp_path / "v")
    with (folder / "part-00000.npy").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ArtifactError, match=r"part-00000\.npy is damaged"):
        VectorWriter(folder, settings=SETTINGS, dimension=4, resume=True)


@pytest.mark.parametrize("verify", [True, False])
def test_open_refuses_a_truncated_or_missing_part(tmp_path, verify):
    write(tmp_path / "v")
    file = tmp_path / "v" / "part-00000.npy"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ArtifactError, match=r"part-00000\.npy is .*damaged"):
        VectorFolder.open(tmp_path / "v", verify=verify)
    file.unlink()
    with pytest.raises(ArtifactError, match=r"part-00000\.npy is missing"):
        VectorFolder.open(tmp_path / "v", verify=verify)


def test_rows_that_do_not_match_their_part_are_refused(tmp_path):
    folder = write(tmp_path / "v")
    other = write(tmp_path / "w", documents=DOCUMENTS[:1])
    assert other.manifest.rows == 2
    (tmp_path / "v" / "part-00000.parquet").write_bytes((tmp_path / "w" / "part-00000.parquet").read_bytes())
    with pytest.raises(ArtifactError, match="has 2 rows, need 8"):
        list(folder.rows())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": "other"}, "has format 'other'"),
        ({"version": 2}, "has version 2, this ctxembed reads 1"),
        ({"rows": 3}, "contradict each other"),
        ({"parts": [{"name": "part-00000"}]}, "damaged"),
        ({"settings": 3}, "damaged"),
    ],
)
def test_open_refuses_a_wrong_manifest(tmp_path, change, message):
    write(tmp_path / "v")
    edit(tmp_path / "v" / "manifest.json", **change)
    with pytest.raises(ArtifactError, match=message):
        VectorFolder.open(tmp_path / "v")


def test_open_refuses_a_part_outside_the_folder(tmp_path):
    write(tmp_path / "v")
    manifest = tmp_path / "v" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("part-00000", "../part-00000"))
    with pytest.raises(ArtifactError, match="contradict"):
        VectorFolder.open(tmp_path / "v")


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_open_refuses_a_manifest_that_is_no_object(tmp_path, text):
    write(tmp_path / "v")
    (tmp_path / "v" / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"damaged|format"):
        VectorFolder.open(tmp_path / "v")


def test_open_names_a_missing_folder(tmp_path):
    with pytest.raises(MissingInputError, match="nowhere does not exist"):
        VectorFolder.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "vectors, message",
    [
        (np.zeros(3), r"have shape \(3,\), need \(N, 3\)"),
        (np.zeros((2, 4)), "are 4 wide, need 3"),
        (np.zeros((2, 3), dtype=int), "are int64, need floats"),
        (np.array([[0, 0, 0], [0, np.nan, 0]]), "row 11 of the vectors holds NaN"),
        (np.array([[0, 0, 1e300]]), "row 10 of the vectors holds"),
    ],
)
def test_wrong_vectors_are_refused(vectors, message):
    with pytest.raises(InvalidInputError, match=message):
        checked_vectors(vectors, dimension=3, first_row=10)


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


def test_encoder_settings_name_model_unit_and_layer(fake_encoder):
    expected = {"model": "fake", "fingerprint": fake_encoder.fingerprint, "unit": "word", "layer": 2}
    assert encoder_settings(fake_encoder, unit="word", layer=2) == expected


def foreign(tmp_path: Path, array, **lines: str):
    np.save(tmp_path / "x.npy", array)
    files = {}
    for name, text in lines.items():
        files[name] = tmp_path / f"{name}.txt"
        files[name].write_text(text, encoding="utf-8")
    return read_foreign(tmp_path / "x.npy", **files)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_foreign_array_is_read_with_ids_and_texts(tmp_path, dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    source = foreign(tmp_path, array, ids="a\nb\n", texts="the first\n\n")
    assert (len(source), source.dimension) == (2, 3)
    for _ in range(2):  # it can be iterated again
        [(rows, vectors)] = list(source)
        assert rows == [Row("a", "the first"), Row("b", "")]
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors, array.astype(np.float64))


def test_foreign_array_is_read_in_chunks_with_row_numbers(tmp_path):
    array = np.arange(20000, dtype=np.float32)[:, None]
    chunks = list(foreign(tmp_path, array))
    assert [len(rows) for rows, _ in chunks] == [16384, 3616]
    assert chunks[1][0][0] == Row("16384", "")
    np.testing.assert_array_equal(np.concatenate([vectors for _, vectors in chunks]), array)


def test_foreign_array_may_be_empty(tmp_path):
    source = foreign(tmp_path, np.zeros((0, 3), np.float32), ids="")
    assert (len(source), source.dimension, list(source)) == (0, 3, [])


def test_foreign_array_with_nan_names_the_row(tmp_path):
    array = np.zeros((20000, 2), np.float32)
    array[17000, 1] = np.inf
    with pytest.raises(InvalidInputError, match=r"row 17000 of .*x\.npy holds NaN, infinity"):
        list(foreign(tmp_path, array))


@pytest.mark.parametrize("name", ["ids", "texts"])
def test_foreign_line_count_must_match(tmp_path, name):
    with pytest.raises(InvalidInputError, match=rf"{name}\.txt has 3 lines, .*x\.npy has 2 rows"):
        foreign(tmp_path, np.zeros((2, 2)), **{name: "a\nb\nc"})


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros(3), r"shape \(3,\), need \(N, D\)"),
        (np.zeros((3, 2), dtype=int), "int64, need floats"),
        (np.array([[None]]), "no plain .npy array"),
    ],
)
def test_foreign_array_of_another_kind_is_refused(tmp_path, array, message):
    with pytest.raises(InvalidInputError, match=message):
        foreign(tmp_path, array)


def test_foreign_lines_must_be_utf8(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 1)))
    (tmp_path / "ids.txt").write_bytes(b"\xff\n")
    with pytest.raises(InvalidInputError, match="is not UTF-8"):
        read_foreign(tmp_path / "x.npy", ids=tmp_path / "ids.txt")
