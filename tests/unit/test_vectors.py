from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ctxembed.errors import ArtifactError, InvalidInputError, MissingInputError
from ctxembed.foreign import read_foreign
from ctxembed.vector_writer import VectorWriter
from ctxembed.vectors import Row, VectorFolder, checked_vectors, encoder_settings

SIZES = (4, 4, 2, 4, 2)  # appends of so many rows give parts of 8, 6 and 2
BLOCKS = [
    [Row(f"{number}.{i}", f"text {number} é", i, i + 2, {"n": i, "none": None}) for i in range(size)]
    for number, size in enumerate(SIZES)
]


def vector_of(row):
    return np.random.default_rng(int(row.content_hash, 16)).standard_normal(4, dtype=np.float32)


def append(writer, blocks):
    for rows in blocks:
        writer.append(rows, np.array([vector_of(row) for row in rows]), documents=[])


def write(path, blocks=BLOCKS, *, part_rows=6, **options):
    with VectorWriter(path, settings={}, dimension=4, part_rows=part_rows, **options) as writer:
        append(writer, blocks)
    return VectorFolder.open(path)


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_content_hash_differs_by_text_and_span():
    rows = [Row("a", "x"), Row("a", "y"), Row("a", "x", 0, 1), Row("a", "x", 0, 2)]
    assert len({row.content_hash for row in rows}) == 4
    assert Row("a", "x").content_hash == Row("b", "x").content_hash


def test_folder_gives_back_rows_and_vectors(tmp_path):
    folder = write(tmp_path / "v")
    expected = [row for rows in BLOCKS for row in rows]
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
    assert isinstance(write(tmp_path / "v", part_rows=100).vectors(), np.memmap)


def test_half_precision_is_read_as_float32(tmp_path):
    folder = write(tmp_path / "v", dtype="float16")
    expected = np.array([vector_of(row) for row in folder.rows()]).astype(np.float16)
    assert folder.vectors().dtype == np.float32
    np.testing.assert_array_equal(folder.vectors(), expected.astype(np.float32))


def test_bytes_are_read_as_float32_and_off_by_half_a_step_at_most(tmp_path):
    folder = write(tmp_path / "v", dtype="int8")
    expected = np.array([vector_of(row) for row in folder.rows()])
    step = np.abs(expected).max(axis=1, keepdims=True) / 127
    assert folder.vectors().dtype == np.float32
    assert (np.abs(folder.vectors() - expected) <= step / 2 * 1.0001).all()
    np.testing.assert_array_equal(np.concatenate([part for _, part in folder.iter_parts()]), folder.vectors())


def test_bytes_take_one_for_each_dimension_and_four_for_the_row(tmp_path):
    write(tmp_path / "v", part_rows=100, dtype="int8")
    stored = np.load(tmp_path / "v" / "part-00000.npy", allow_pickle=False)
    assert (stored.dtype.names, stored.itemsize, len(stored)) == (("scale", "values"), 4 + 4, 16)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_some_rows_are_taken_in_the_order_asked_for(tmp_path, dtype):
    folder = write(tmp_path / "v", dtype=dtype)
    numbers = np.array([15, 0, 7, 8, 7])
    np.testing.assert_array_equal(folder.take(numbers), folder.vectors()[numbers])
    assert folder.take(np.zeros(0, dtype=np.int64)).shape == (0, 4)


def test_spans_are_the_rows_with_each_text_once(tmp_path):
    folder = write(tmp_path / "v")
    found = [
        (spans.texts[owner], start, end)
        for spans in folder.spans()
        for owner, start, end in zip(spans.owners, spans.starts, spans.ends, strict=True)
    ]
    assert found == [(row.text, row.start, row.end) for row in folder.rows()]
    assert [spans.texts for spans in folder.spans()] == [
        ["text 0 é", "text 1 é"], ["text 2 é", "text 3 é"], ["text 4 é"],
    ]  # fmt: skip


def test_spans_of_whole_texts_start_at_minus_one(tmp_path):
    folder = write(tmp_path / "v", blocks=[[Row("a", "x"), Row("b", "y"), Row("c", "x")]])
    [spans] = folder.spans()
    assert (spans.texts, spans.owners.tolist()) == (["x", "y"], [0, 1, 0])
    assert spans.starts.tolist() == spans.ends.tolist() == [-1, -1, -1]


def test_empty_folder_is_legal(tmp_path):
    folder = write(tmp_path / "v", blocks=[])
    assert len(folder) == 0
    assert folder.vectors().shape == (0, 4)
    assert list(folder.iter_parts()) == list(folder.rows()) == list(folder.spans()) == []


def test_open_refuses_an_unfinished_folder(tmp_path):
    append(VectorWriter(tmp_path / "v", settings={}, dimension=4, part_rows=6), BLOCKS[:3])
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
    other = write(tmp_path / "w", blocks=BLOCKS[2:3])
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
        ({"dtype": "float8"}, "contradict each other"),
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


def test_foreign_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    source = foreign(tmp_path, np.zeros((2, 1)), ids="\ufeffa\nb\n", texts="\ufeffthe first\nthe second\n")
    assert next(iter(source))[0] == [Row("a", "the first"), Row("b", "the second")]


def test_foreign_lines_must_be_utf8(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 1)))
    (tmp_path / "ids.txt").write_bytes(b"\xff\n")
    with pytest.raises(InvalidInputError, match="is not UTF-8"):
        read_foreign(tmp_path / "x.npy", ids=tmp_path / "ids.txt")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_all_vectors_are_the_parts_joined_in_the_order_of_the_manifest(tmp_path, dtype):
    folder = write(tmp_path / "v", dtype=dtype)
    names = [part["name"] for part in json.loads((tmp_path / "v" / "manifest.json").read_text())["parts"]]
    assert len(names) == 3
    joined = np.concatenate([np.load(tmp_path / "v" / f"{name}.npy", allow_pickle=False) for name in names])
    assert joined.dtype == dtype
    np.testing.assert_array_equal(joined, folder.vectors())


def test_int8_is_read_as_the_docs_say(tmp_path):
    folder = write(tmp_path / "v", dtype="int8")
    part = np.load(tmp_path / "v" / "part-00000.npy", mmap_mode="r", allow_pickle=False)
    vectors = part["values"] * part["scale"][:, None]
    assert (vectors.dtype, part["values"].dtype) == (np.float32, np.int8)
    np.testing.assert_array_equal(vectors, folder.vectors()[: len(part)])
    exact = [vector_of(row) for rows in BLOCKS for row in rows][: len(part)]
    np.testing.assert_allclose(vectors, exact, atol=np.abs(exact).max() / 250)


def test_content_hashes_are_those_of_the_rows(tmp_path):
    folder = write(tmp_path / "v")
    assert [f"{number:016x}" for number in folder.content_hashes()] == [row.content_hash for row in folder.rows()]


def test_settings_name_the_conditions_of_an_encoder_that_has_some(fake_encoder):
    assert encoder_settings(fake_encoder, unit="word", layer=(3, -1)) == {
        "model": "fake",
        "fingerprint": fake_encoder.fingerprint,
        "unit": "word",
        "layer": [3, -1],
    }
