"""From documents to a model folder on tiny shapes: what is written, what is refused, what a kill leaves behind."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import ctxembed.training.run
from ctxembed.config import PoolingConfig, TrainingConfig
from ctxembed.embedder import Embedder
from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ctxembed.tokenizer import SubwordTokenizer, TokenizerConfig
from ctxembed.training import plans
from ctxembed.training.objectives.base import Loss
from ctxembed.training.objectives.mlm import MaskedBatch, MaskedLanguageModelling, MaskingConfig
from ctxembed.training.plans import Plan, Preparation
from ctxembed.training.run import Run, train
from ctxembed.training.start import ExistingModel, NewModel
from ctxembed.training.targets import VectorTargets
from ctxembed.types import Document
from ctxembed.vector_writer import VectorWriter
from ctxembed.vectors import Row, VectorFolder

SHAPE = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 24, "max_length": 24}
TRAINING = TrainingConfig(max_steps=6, batch_tokens=48, max_length=24, seed=3, eval_every=3, save_every=2)
SMALL = TokenizerConfig(vocab_size=90, min_frequency=1)
DOCUMENTS = [
    Document(str(number), f"{person} of {thing} near {place}.")
    for number, (person, thing, place) in enumerate(
        (person, thing, place)
        for person in ("the farmer", "she read")
        for thing in ("the bass", "a spring", "the old crane")
        for place in ("the bank", "the river")
    )
]
FILES = ("README.md", "config.json", "model.safetensors", "tokenizer.json", "training.json")


class Killed(Exception):
    """Stands for what ends a process."""


def killed_after(step: int) -> Callable[[Mapping[str, float]], None]:
    def report(metrics: Mapping[str, float]) -> None:
        if metrics["step"] > step:
            raise Killed

    return report


def mlm(documents: list[Document] = DOCUMENTS, **config: Any) -> Plan:
    return Plan(plans.mlm(documents, MaskingConfig(**config)))


def train_new(
    folder: Path,
    tokenizer: SubwordTokenizer | TokenizerConfig,
    *,
    shape: Mapping[str, Any] = SHAPE,
    documents: list[Document] = DOCUMENTS,
    mixture: list[Plan] | None = None,
    training: TrainingConfig = TRAINING,
    **changes: Any,
) -> Checkpoint:
    start = NewModel(shape=shape, tokenizer=tokenizer, documents=documents)
    run = Run(folder=folder, training=training, **changes)
    return train(start, [mlm(documents)] if mixture is None else mixture, run=run)


def train_further(folder: Path, initial: Checkpoint, *mixture: Plan, **changes: Any) -> Checkpoint:
    pooling = changes.pop("pooling", None)
    run = Run(folder=folder, training=changes.pop("training", TRAINING), **changes)
    return train(ExistingModel(checkpoint=initial, pooling=pooling), mixture or [mlm()], run=run)


def notes_of(folder: Path) -> dict[str, Any]:
    notes: dict[str, Any] = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return notes


def metrics_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_same_files(one: Path, other: Path) -> None:
    assert all((one / file).read_bytes() == (other / file).read_bytes() for file in FILES)
    timeless = [[{**line, "seconds": 0} for line in metrics_of(folder)] for folder in (one, other)]
    assert timeless[0] == timeless[1]


@pytest.fixture
def initial(tiny_model: Path) -> Checkpoint:
    return load_checkpoint(tiny_model)


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


def test_figures_are_measured_on_the_model_in_training_without_changing_it(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    fingerprints: list[str] = []

    def measure(checkpoint: Checkpoint) -> dict[str, float]:
        fingerprints.append(checkpoint.fingerprint)
        vectors = Embedder(checkpoint, dtype="bfloat16").encode(["the bank", "the river"])
        return {"cosine": float(vectors[0] @ vectors[1])}

    measured = train_new(tmp_path / "a" / "m", tiny_tokenizer, evaluate=measure)
    assert measured.fingerprint == train_new(tmp_path / "b" / "m", tiny_tokenizer).fingerprint
    assert [line["step"] for line in metrics_of(tmp_path / "a" / "m") if "cosine" in line] == [3, 6]
    assert fingerprints == ["", ""]  # nothing that is cached for another model is its


# Equal runs, killed runs


def several(tokenizer: SubwordTokenizer) -> list[Plan]:
    """A mixture with two objectives of one kind, and one that compares rows."""
    return [mlm(), replace(mlm(DOCUMENTS[:7], whole_words=True), share=0.5), Plan(plans.simcse(DOCUMENTS), weight=0.3)]


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


# From another model


def teacher(folder: Path, **settings: Any) -> VectorFolder:
    rows = [Row(document.id, document.text) for document in DOCUMENTS]
    vectors = np.random.default_rng(1).standard_normal((len(rows), 8)).astype(np.float32)
    with VectorWriter(folder, settings={"fingerprint": "random", **settings}, dimension=8) as writer:
        writer.append(rows, vectors, documents=DOCUMENTS)
    return VectorFolder.open(folder)


def distill(folder: VectorFolder) -> Plan:
    return Plan(
        plans.distill(
            lambda given: VectorTargets(given.model.tokenizer, sentences=[folder], max_length=given.max_length)
        )
    )


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
