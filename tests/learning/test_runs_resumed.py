"""Equal runs give equal files, whatever killed them in between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ctxembed.training.run
from ctxembed.config import PoolingConfig
from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.tokenizer import SubwordTokenizer
from ctxembed.training import plans
from ctxembed.training.plans import Plan

from .model_runs import (
    DOCUMENTS,
    SHAPE,
    SMALL,
    TRAINING,
    Killed,
    assert_same_files,
    killed_after,
    metrics_of,
    mlm,
    notes_of,
    several,
    train_further,
    train_new,
)

# Equal runs, killed runs


def test_equal_runs_give_equal_files(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    for parent in ("a", "b"):
        train_new(tmp_path / parent / "m", tiny_tokenizer, mixture=several(tiny_tokenizer))
    assert_same_files(tmp_path / "a" / "m", tmp_path / "b" / "m")


@pytest.mark.parametrize("step", [1, 4])
def test_a_killed_run_that_is_resumed_gives_the_same_files(tmp_path: Path, step: int) -> None:
    for parent in ("a", "b"):
        folder, mixture = tmp_path / parent / "m", [mlm(), Plan(plans.simcse(DOCUMENTS))]
        if parent == "b":
            with pytest.raises(Killed):
                train_new(folder, SMALL, mixture=mixture, report=killed_after(step))
        train_new(folder, SMALL, mixture=mixture, resume=parent == "b")
    assert_same_files(tmp_path / "a" / "m", tmp_path / "b" / "m")


def test_a_run_killed_while_the_model_is_written_can_be_resumed(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ctxembed.training.run, "save_checkpoint", killed)
        with pytest.raises(Killed):
            train_new(tmp_path / "m", tiny_tokenizer)
    resumed = train_new(tmp_path / "m", tiny_tokenizer, resume=True)
    assert resumed.fingerprint == train_new(tmp_path / "again", tiny_tokenizer).fingerprint
    assert len(metrics_of(tmp_path / "m")) == 6 + 2


def test_a_resumed_run_does_not_read_its_documents_again(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train_new(tmp_path / "m", tiny_tokenizer, report=killed_after(3))
    unread = [Plan(plans.mlm(iter(())), share=1.0)]
    resumed = train_new(tmp_path / "m", tiny_tokenizer, mixture=unread, resume=True)
    assert resumed.fingerprint == train_new(tmp_path / "again", tiny_tokenizer).fingerprint


def test_a_run_killed_before_its_first_save_takes_what_is_given_now(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train_new(tmp_path / "m", SMALL, report=killed_after(1))
    changed = {"tokenizer": replace(SMALL, vocab_size=80), "documents": DOCUMENTS[1:]}
    resumed = train_new(tmp_path / "m", resume=True, **changed)
    assert resumed.fingerprint == train_new(tmp_path / "anew" / "m", **changed).fingerprint
    assert notes_of(tmp_path / "m")["objectives"][0]["items"] == len(DOCUMENTS) - 1


# Resumed with something else


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": replace(TRAINING, seed=8)}, "seed = 3, now it is 8: resume with the same"),
        ({"tokenizer": replace(SMALL, lowercase=False)}, "given_tokenizer.lowercase = True, now it is False"),
        ({"tokenizer": replace(SMALL, vocab_size=80)}, "given_tokenizer.vocab_size = 90, now it is 80"),
        ({"mixture": [mlm(mask_fraction=0.5)]}, "objectives.1.mask_fraction = 0.2, now it is 0.5"),
        ({"mixture": [replace(mlm(), weight=2.0)]}, "objectives.1.weight = 1.0, now it is 2.0"),
        (
            {"mixture": [replace(mlm(), source={"max_documents": 9})]},
            "objectives.1.max_documents = None, now it is 9",
        ),
        ({"mixture": [mlm(), mlm()]}, "objectives.2 = None, now it is {'kind': 'mlm', "),
        ({"shape": {**SHAPE, "dropout": 0.2}}, "encoder.dropout = 0.1, now it is 0.2"),
    ],
)
def test_a_run_resumed_with_other_settings_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Killed):
        train_new(tmp_path / "m", SMALL, report=killed_after(3))
    with pytest.raises(InvalidInputError, match=f"the run was started with {message}"):
        train_new(tmp_path / "m", resume=True, **{"tokenizer": SMALL, **changes})
    assert (tmp_path / "m" / ".run" / "state.safetensors").exists()  # and can still be resumed rightly
    train_new(tmp_path / "m", SMALL, resume=True)


def test_a_run_resumed_with_another_trained_tokenizer_is_refused(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        train_new(tmp_path / "m", SMALL, report=killed_after(3))
    other = SubwordTokenizer.train([document.text for document in DOCUMENTS], config=replace(SMALL, lowercase=False))
    with pytest.raises(InvalidInputError, match=f"given_tokenizer = .*, now it is '{other.fingerprint}'"):
        train_new(tmp_path / "m", other, resume=True)
    with pytest.raises(InvalidInputError, match="started with encoder.vocab_size = "):
        train_new(tmp_path / "m", tiny_tokenizer, resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"fingerprint": "other"}, "initial = .*, now it is 'other'"), ({}, "pooling.usage_layer = -1, now it is 1")],
)
def test_a_run_resumed_from_another_model_or_pooling_is_refused(
    initial: Checkpoint, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(Killed):
        train_further(tmp_path / "s", initial, report=killed_after(3))
    pooling = None if changes else PoolingConfig(usage_layer=1)
    with pytest.raises(InvalidInputError, match=f"the run was started with {message}"):
        train_further(tmp_path / "s", replace(initial, **changes), resume=True, pooling=pooling)
