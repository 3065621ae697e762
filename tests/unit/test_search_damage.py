"""Damaged files of an index are found and named."""

from __future__ import annotations

import dataclasses
import json

import pytest

from ctxembed.errors import ArtifactError
from ctxembed.search import SemanticSearch

from .search_samples import DOCUMENTS


@pytest.fixture
def built(tmp_path, fake_encoder):
    with SemanticSearch.build(DOCUMENTS, encoder=fake_encoder, path=tmp_path / "i", batch_size=7) as search:
        yield search


@pytest.mark.parametrize("name", ["vectors.1.faiss", "rows.1.sqlite"])
@pytest.mark.parametrize("verify", [True, False])
def test_truncated_file_is_named(built, tmp_path, name, verify):
    file = tmp_path / "i" / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=rf"{name} is damaged \(\d+ bytes, need \d+\)"):
        SemanticSearch.open(tmp_path / "i", verify=verify)


@pytest.mark.parametrize("name", ["vectors.1.faiss", "rows.1.sqlite"])
def test_changed_byte_is_found(built, tmp_path, name):
    file = tmp_path / "i" / name
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"{name} is damaged \(its sha256 differs\)"):
        SemanticSearch.open(tmp_path / "i")


def test_missing_file_is_named(built, tmp_path):
    (tmp_path / "i" / "rows.1.sqlite").unlink()
    with pytest.raises(ArtifactError, match=r"rows\.1\.sqlite is missing"):
        SemanticSearch.open(tmp_path / "i")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rows": 39}, "its own sha256 differs"),
        ({"version": 9}, "has version 9"),
        ({"metric": "l2"}, "its own sha256 differs"),
        ({"indexes": []}, "its own sha256 differs"),
    ],
)
def test_wrong_manifest_is_refused(built, tmp_path, change, message):
    file = tmp_path / "i" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ArtifactError, match=message):
        SemanticSearch.open(tmp_path / "i")


def test_file_outside_the_folder_is_refused(built, tmp_path):
    manifest = dataclasses.replace(
        built.manifest, rows_file=dataclasses.replace(built.manifest.rows_file, name="../rows.1.sqlite")
    )
    (tmp_path / "i" / "manifest.json").write_text(json.dumps(manifest.to_json()))
    with pytest.raises(ArtifactError, match="its entries contradict each other"):
        SemanticSearch.open(tmp_path / "i")
