"""Runs that go on from another model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctxembed.config import PoolingConfig
from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ctxembed.training.plans import Preparation

from .model_runs import (
    DOCUMENTS,
    TRAINING,
    Killed,
    assert_same_files,
    distill,
    killed_after,
    mlm,
    notes_of,
    teacher,
    train_further,
)

# From another model


def test_a_model_trained_further_is_another_and_leaves_the_initial_one(initial: Checkpoint, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in initial.encoder.state_dict().items()}
    student = train_further(tmp_path / "s", initial, mlm(), distill(teacher(tmp_path / "t")))
    assert all(torch.equal(value, before[name]) for name, value in initial.encoder.state_dict().items())
    assert not all(torch.equal(value, before[name]) for name, value in student.encoder.state_dict().items())
    assert student.name == "s"
    assert student.prompts == initial.prompts
    assert student.fingerprint == load_checkpoint(tmp_path / "s").fingerprint != initial.fingerprint
    notes = notes_of(tmp_path / "s")
    assert (notes["initial"], notes["initial_name"]) == (initial.fingerprint, "tiny")
    assert [each["kind"] for each in notes["objectives"]] == ["mlm", "distill"]
    assert notes["objectives"][1]["teachers"]["sentences"] == {"fingerprint": "random", "layer": None}
    assert "- continued from: tiny\n" in (tmp_path / "s" / "README.md").read_text(encoding="utf-8")


def test_a_model_without_a_head_can_be_trained_further(initial: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "bare", replace(initial, head=None))
    bare = load_checkpoint(tmp_path / "bare")
    assert bare.head is None
    assert train_further(tmp_path / "s", bare).head is not None


@pytest.mark.parametrize("pooling", [None, PoolingConfig(sentence="cls", usage_layer=1)])
def test_a_model_trained_further_pools_as_asked_or_as_before(
    initial: Checkpoint, tmp_path: Path, pooling: PoolingConfig | None
) -> None:
    plan = distill(teacher(tmp_path / "t"))
    student = train_further(tmp_path / "s", initial, plan, pooling=pooling, training=replace(TRAINING, max_steps=1))
    assert student.pooling == load_checkpoint(tmp_path / "s").pooling == (pooling or PoolingConfig())


def test_a_killed_distillation_that_is_resumed_gives_the_same_files(initial: Checkpoint, tmp_path: Path) -> None:
    plan = distill(teacher(tmp_path / "t"))
    train_further(tmp_path / "a" / "s", initial, plan)
    with pytest.raises(Killed):
        train_further(tmp_path / "b" / "s", initial, plan, report=killed_after(4))
    train_further(tmp_path / "b" / "s", initial, plan, resume=True)
    assert_same_files(tmp_path / "a" / "s", tmp_path / "b" / "s")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"fingerprint": "other"}, "fingerprint = 'random', now it is 'other'"),
        ({"layer": 3}, "layer = None, now it is 3"),
    ],
)
def test_a_distillation_resumed_with_another_teacher_is_refused(
    initial: Checkpoint, tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    with pytest.raises(Killed):
        train_further(tmp_path / "s", initial, distill(teacher(tmp_path / "t")), report=killed_after(3))
    swapped = distill(teacher(tmp_path / "other", **other))
    with pytest.raises(InvalidInputError, match=f"started with objectives.1.teachers.sentences.{message}"):
        train_further(tmp_path / "s", initial, swapped, resume=True)


def test_a_usage_layer_that_the_model_lacks_is_refused_and_leaves_nothing(initial: Checkpoint, tmp_path: Path) -> None:
    plan = distill(teacher(tmp_path / "t"))
    with pytest.raises(InvalidInputError, match="usage_layer = 9: the model has layers"):
        train_further(tmp_path / "s", initial, plan, pooling=PoolingConfig(usage_layer=9))
    assert not (tmp_path / "s").exists()


# Preparation


def test_lines_about_what_was_read_are_passed_on(initial: Checkpoint, tmp_path: Path) -> None:
    said: list[str] = []
    given = Preparation(initial, max_length=24, path=tmp_path / "rows", tell=said.append)
    given.say("5 rows")
    given.say("")
    replace(given, tell=None).say("unheard")
    assert said == ["5 rows"]


def test_rows_are_written_once_and_mapped(initial: Checkpoint, tmp_path: Path) -> None:
    given = Preparation(initial, max_length=24, path=tmp_path / "rows", tell=None)
    first = given.rows(iter(DOCUMENTS))
    assert isinstance(first.ids, np.memmap)
    assert given.rows(iter(())).sha256 == first.sha256
