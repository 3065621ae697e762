from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import ctxembed.vector_table
from ctxembed.errors import InvalidInputError
from ctxembed.types import Document
from ctxembed.units import EmbedCounts, embed_table
from ctxembed.vector_table import writing_table
from ctxembed.vectors import Row

ROWS = [Row("a", "the café", 4, 8, {"year": 1990}), Row("b", "", metadata={"note": None})]
VECTORS = np.array([[1, 0, 0], [0.5, -2, 3]], dtype=np.float32)


def write(path: Path, *pairs: tuple[list[Row], np.ndarray]) -> Path:
    with writing_table(path, settings={"model": "m", "layer": [1, 2]}, dimension=3) as append:
        for rows, vectors in pairs:
            append(rows, vectors)
    return path


def test_other_tools_find_every_column(tmp_path: Path) -> None:
    frame = pd.read_parquet(write(tmp_path / "v.parquet", (ROWS, VECTORS)))
    assert list(frame.columns) == ["id", "text", "start", "end", "metadata", "vector"]
    assert frame["id"].tolist() == ["a", "b"]
    assert frame["text"].tolist() == ["the café", ""]
    assert (frame["start"][0], frame["end"][0]) == (4, 8)
    assert frame["start"].isna().tolist() == [False, True]
    assert [json.loads(text) for text in frame["metadata"]] == [{"year": 1990}, {"note": None}]
    np.testing.assert_array_equal(np.stack(frame["vector"].to_list()), VECTORS)


def test_the_vector_is_a_list_of_fixed_size_in_float32(tmp_path: Path) -> None:
    table = pq.read_table(write(tmp_path / "v.parquet", (ROWS, VECTORS)))
    assert str(table.schema.field("vector").type).startswith("fixed_size_list<element: float not null")
    assert table.schema.field("vector").type.list_size == 3
    flat = table["vector"].combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(flat.reshape(-1, 3), VECTORS)


def test_the_file_says_what_its_vectors_depend_on(tmp_path: Path) -> None:
    kept = pq.read_schema(write(tmp_path / "v.parquet", (ROWS, VECTORS))).metadata[b"ctxembed"]
    assert json.loads(kept) == {"model": "m", "layer": [1, 2]}


def test_row_groups_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctxembed.vector_table, "GROUP_ROWS", 2)
    rows, vectors = [Row(str(i), "x") for i in range(5)], np.arange(15, dtype=np.float32).reshape(5, 3)
    file = pq.ParquetFile(write(tmp_path / "v.parquet", (rows, vectors)))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 2, 1]


@pytest.mark.parametrize("pairs", [[], [([], np.zeros((0, 3), dtype=np.float32))]])
def test_no_row_gives_a_file_without_rows(tmp_path: Path, pairs: list) -> None:
    table = pq.read_table(write(tmp_path / "v.parquet", *pairs))
    assert (len(table), len(table.column_names)) == (0, 6)


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "v.parquet").write_text("mine")
    with pytest.raises(InvalidInputError, match=r"v\.parquet exists: delete it, or choose another -o"):
        write(tmp_path / "v.parquet")
    assert (tmp_path / "v.parquet").read_text() == "mine"


def test_a_run_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="holds NaN"):
        write(tmp_path / "v.parquet", (ROWS, VECTORS), (ROWS, np.full((2, 3), np.nan, dtype=np.float32)))
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_becomes_a_table_batch_by_batch(fake_encoder, tmp_path: Path) -> None:
    documents = [Document(str(i), f"word{i} river", {"n": i}) for i in range(7)]
    done: list[int] = []
    counts = EmbedCounts()
    embed_table(
        documents,
        encoder=fake_encoder,
        path=tmp_path / "v.parquet",
        batch_size=3,
        counts=counts,
        on_progress=done.append,
    )
    table = pq.read_table(tmp_path / "v.parquet")
    assert (done, counts.rows) == ([3, 3, 1], 7)
    assert table["id"].to_pylist() == [document.id for document in documents]
    np.testing.assert_array_equal(table["vector"].to_pylist(), fake_encoder.encode([d.text for d in documents]))
