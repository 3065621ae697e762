"""From documents to a model folder on tiny shapes: what is written, what is refused, what ends a run early."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint
from ctxembed.tokenizer import SubwordTokenizer
from ctxembed.training.objectives.base import Loss
from ctxembed.training.objectives.mlm import MaskedBatch, MaskedLanguageModelling
from ctxembed.training.plans import Plan, Preparation
from ctxembed.types import Document

from .model_runs import (
    DOCUMENTS,
    FILES,
    SHAPE,
    SMALL,
    TRAINING,
    Killed,
    killed_after,
    metrics_of,
    mlm,
    notes_of,
    train_further,
    train_new,
)

# What is written


def test_the_folder_holds_a_model_with_its_notes_and_metrics(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    train_new(tmp_path / "m", tiny_tokenizer, notes={"inputs": ["corpus.txt"]})
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == sorted([*FILES, "metrics.jsonl"])
    notes = notes_of(tmp_path / "m")
    chosen = {name: notes[name] for name in ("seed", "max_steps", "steps", "inputs", "tokenizer", "processes")}
    assert chosen == {
        "seed": 3,
        "max_steps": 6,
        "steps": 6,
        "inputs": ["corpus.txt"],
        "tokenizer": tiny_tokenizer.fingerprint,
        "processes": 1,
    }
    (objective,) = notes["objectives"]
    described = {name: objective[name] for name in ("kind", "share", "weight", "items", "mask_fraction")}
    assert described == {"kind": "mlm", "share": 1.0, "weight": 1.0, "items": len(DOCUMENTS), "mask_fraction": 0.2}
    assert notes["held_out"]["eval_loss"] > 0
    assert notes["tokens_seen"] > 100
    lines = metrics_of(tmp_path / "m")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "eval_loss" in line] == [3, 6]


def test_the_card_names_model_shape_inputs_objectives_and_seed(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    mixture = [replace(mlm(), weight=0.5, share=3.0), mlm(mask_fraction=0.4)]
    notes = {"inputs": ["a.txt", "b.txt"], "teachers": ["big, sentence vectors"]}
    train_new(tmp_path / "m", tiny_tokenizer, mixture=mixture, notes=notes)
    card = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# m\n")
    assert "- objective: mlm, share 3, weight 0.5, 12 items\n- objective: mlm, share 1, weight 1, 12 items\n" in card
    assert "- inputs: a.txt, b.txt\n- teacher: big, sentence vectors\n" in card
    assert f"1 layers, 16 wide, 2 heads, {len(tiny_tokenizer)} tokens of vocabulary" in card
    assert "seed 3, 6 steps" in card
    assert "eval_mlm_2: " in card


def test_what_is_returned_is_what_the_folder_holds(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    returned = train_new(tmp_path / "m", tiny_tokenizer)
    loaded = load_checkpoint(tmp_path / "m")
    assert returned.fingerprint == loaded.fingerprint != ""
    states = returned.encoder.state_dict(), loaded.encoder.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    assert not returned.encoder.training


def test_metrics_lie_in_the_model_folder_while_it_is_trained(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    folders: set[str] = set()

    def report(metrics: Mapping[str, float]) -> None:
        seen.append(metrics_of(tmp_path / "m")[-1])
        folders.update(path.name for path in (tmp_path / "m" / ".run").iterdir())

    train_new(tmp_path / "m", SMALL, report=report)
    assert [line["step"] for line in seen] == [1, 2, 3, 4, 5, 6]
    assert all({"step", "loss", "mlm", "tokens", "seconds", "learning_rate"} <= line.keys() for line in seen)
    assert folders == {"tokenizer.json", "rows-0.ids", "rows-0.starts.npy", "state.safetensors"}
    assert not (tmp_path / "m" / ".run").exists()


# What is refused


def test_a_folder_that_holds_a_model_is_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    train_new(tmp_path / "m", tiny_tokenizer)
    for resume in (False, True):
        with pytest.raises(InvalidInputError, match="m already holds a model: choose another output, or delete it"):
            train_new(tmp_path / "m", tiny_tokenizer, resume=resume)


def test_an_unfinished_run_is_not_begun_anew(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train_new(tmp_path / "m", tiny_tokenizer, report=killed_after(3))
    with pytest.raises(InvalidInputError, match="holds an unfinished run: --resume it, or delete the folder"):
        train_new(tmp_path / "m", tiny_tokenizer)


def test_nothing_to_resume_is_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="m holds no run to resume: leave out --resume"):
        train_new(tmp_path / "m", tiny_tokenizer, resume=True)


def test_a_run_without_objectives_is_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="a run needs at least one objective"):
        train_new(tmp_path / "m", tiny_tokenizer, mixture=[])


@pytest.mark.parametrize(
    ("rows", "width", "message"),
    [
        (24, 16, "rows of max_length = 24 tokens, but the encoder's is 16: lower the first or raise the second"),
        (20, 20, "rows of max_length = 20 tokens, padded to 24, but the encoder's is 20: lower the first"),
    ],
)
def test_rows_that_the_encoder_cannot_hold_are_refused_and_leave_nothing(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, rows: int, width: int, message: str
) -> None:
    training = replace(TRAINING, max_length=rows)
    with pytest.raises(InvalidInputError, match=message):
        train_new(tmp_path / "m", tiny_tokenizer, shape={**SHAPE, "max_length": width}, training=training)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("length", [20, 24])
def test_rows_that_fill_the_encoder_are_trained_on(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, length: int
) -> None:
    long = [Document(str(number), f"{'river ' * 40} {number}") for number in range(4)]
    training = replace(TRAINING, max_length=length, max_steps=2)
    train_new(tmp_path / "m", tiny_tokenizer, documents=long, training=training)
    assert notes_of(tmp_path / "m")["tokens_seen"] >= 2 * length


def test_a_corpus_without_text_is_refused_and_leaves_nothing(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="the corpus holds no text to train on"):
        train_new(tmp_path / "m", tiny_tokenizer, documents=[Document("0", " ")])
    assert not (tmp_path / "m").exists()


def test_a_refused_run_leaves_what_else_lies_in_the_folder(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InvalidInputError, match="holds no text"):
        train_new(tmp_path / "m", tiny_tokenizer, documents=[Document("0", " ")])
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["notes.txt"]
    train_new(tmp_path / "m", tiny_tokenizer)
    assert (tmp_path / "m" / "notes.txt").read_text(encoding="utf-8") == "mine"


# Going wrong


class Broken(MaskedLanguageModelling):
    """Its loss is no number from a training step on: the fourth, when two have been saved."""

    calls = 0

    def forward(self, model: Checkpoint, batch: MaskedBatch) -> Loss:
        loss = super().forward(model, batch)
        self.calls += torch.is_grad_enabled()
        return replace(loss, value=loss.value * math.nan) if self.calls >= self.at else loss

    at = 4


def broken(given: Preparation) -> Broken:
    return Broken(given.rows(DOCUMENTS), given.model.tokenizer)


def test_a_diverged_run_leaves_the_model_of_its_last_checkpoint(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    with pytest.raises(InvalidInputError) as raised:
        train_new(folder, tiny_tokenizer, mixture=[Plan(broken)])
    place = folder / "last-good"
    assert str(raised.value) == (
        "the loss became nan at step 4: lower learning_rate (0.001); "
        f"the model of step 2 is in {place}: go on --from it"
    )
    good = load_checkpoint(place)
    assert notes_of(place)["step"] == 2
    with safe_open(str(folder / ".run" / "state.safetensors"), framework="pt") as state:
        for name, value in good.encoder.named_parameters():
            saved = state.get_tensor(f"weight.model.encoder.{name}")
            assert torch.equal(value, saved.half().float())
    further = train_further(tmp_path / "further", good, training=replace(TRAINING, max_steps=1))
    assert further.fingerprint != good.fingerprint


def test_a_run_that_diverges_at_once_says_that_nothing_was_saved(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "at", 1)
    with pytest.raises(InvalidInputError, match=r"the loss became nan at step 1: .*; nothing had been saved yet$"):
        train_new(tmp_path / "m", tiny_tokenizer, mixture=[Plan(broken)])
    assert not (tmp_path / "m").exists()


# A budget


def test_a_run_ends_with_its_budget(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    told: list[str] = []
    training = replace(TRAINING, budget=3.0, eval_every=10_000, save_every=50)
    begun = time.perf_counter()
    train_new(tmp_path / "m", SMALL, training=training, tell=told.append)
    assert 2.5 < time.perf_counter() - begun < 3.5
    lines = [line for line in metrics_of(tmp_path / "m") if "loss" in line]
    assert lines[-1]["seconds"] == pytest.approx(3.0, abs=0.5)
    assert lines[-1]["learning_rate"] < 0.02 * training.learning_rate
    assert max(line["learning_rate"] for line in lines) > 0.9 * training.learning_rate
    assert [line.split()[0].rstrip(":") for line in told] == ["the", "forecast", "forecast"]
    assert told[2].endswith(" s")
    assert f"done {notes_of(tmp_path / 'm')['steps']:,} steps, " in told[2]
