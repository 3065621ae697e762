"""From documents to a model folder on tiny shapes: what is written, what is refused, what a kill leaves behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import ctxembed.training.recipes
from ctxembed.config import PoolingConfig, TrainingConfig
from ctxembed.embedder import Embedder
from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint
from ctxembed.tokenizer import TokenizerConfig
from ctxembed.training.recipes import Run, distill, prepare_documents, train_mlm
from ctxembed.training.targets import VectorTargets
from ctxembed.types import Document
from ctxembed.vector_writer import VectorWriter
from ctxembed.vectors import Row, VectorFolder

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

SHAPE = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 24, "max_length": 24}
TRAINING = TrainingConfig(max_steps=6, batch_tokens=48, max_length=24, seed=3, log_every=1, eval_every=3, save_every=2)
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


def train(
    folder: Path, tokenizer: SubwordTokenizer | TokenizerConfig, *, shape: Mapping[str, Any] = SHAPE, **changes: Any
) -> Checkpoint:
    documents = changes.pop("documents", DOCUMENTS)
    run = Run(folder=folder, training=changes.pop("training", TRAINING), **changes)
    return train_mlm(documents, run=run, shape=shape, tokenizer=tokenizer)


def killed_after(step: int) -> Any:
    def report(metrics: Mapping[str, float]) -> None:
        if metrics["step"] > step:
            raise Killed

    return report


def teacher(folder: Path, **settings: Any) -> VectorFolder:
    rows = [Row(document.id, document.text) for document in DOCUMENTS]
    vectors = np.random.default_rng(1).standard_normal((len(rows), 8)).astype(np.float32)
    with VectorWriter(folder, settings={"fingerprint": "random", **settings}, dimension=8) as writer:
        writer.append(rows, vectors, documents=DOCUMENTS)
    return VectorFolder.open(folder)


@pytest.fixture
def targets(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> VectorTargets:
    return VectorTargets(tiny_tokenizer, sentences=[teacher(tmp_path / "teacher")], max_length=24)


# Masked-language modelling


def test_the_folder_holds_a_model_with_its_notes_and_metrics(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    train(tmp_path / "m", tiny_tokenizer, notes={"inputs": ["corpus.txt"]})
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == sorted([*FILES, "metrics.jsonl"])
    notes = json.loads((tmp_path / "m" / "training.json").read_text(encoding="utf-8"))
    chosen = {name: notes[name] for name in ("objective", "seed", "steps", "rows", "inputs", "tokenizer")}
    assert chosen == {
        "objective": "mlm",
        "seed": 3,
        "steps": 6,
        "rows": len(DOCUMENTS),
        "inputs": ["corpus.txt"],
        "tokenizer": tiny_tokenizer.fingerprint,
    }
    assert notes["held_out"]["eval_loss"] > 0
    lines = [json.loads(line) for line in (tmp_path / "m" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_the_card_names_model_shape_inputs_and_seed(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    train(tmp_path / "m", tiny_tokenizer, notes={"inputs": ["a.txt", "b.txt"]})
    card = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# m\n")
    assert "- inputs: a.txt, b.txt\n" in card
    assert f"1 layers, 16 wide, 2 heads, {len(tiny_tokenizer)} tokens of vocabulary" in card
    assert "seed 3, 6 steps" in card


def test_what_is_returned_is_what_the_folder_holds(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    returned = train(tmp_path / "m", tiny_tokenizer)
    loaded = load_checkpoint(tmp_path / "m")
    assert returned.fingerprint == loaded.fingerprint != ""
    states = returned.encoder.state_dict(), loaded.encoder.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    assert not returned.encoder.training


def test_equal_runs_give_equal_files(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    for parent in ("a", "b"):
        train(tmp_path / parent / "m", tiny_tokenizer)
    assert all((tmp_path / "a/m" / file).read_bytes() == (tmp_path / "b/m" / file).read_bytes() for file in FILES)


@pytest.mark.parametrize("step", [1, 4])
def test_a_killed_run_that_is_resumed_gives_the_same_files(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, step: int
) -> None:
    train(tmp_path / "a" / "m", tiny_tokenizer)
    with pytest.raises(Killed):
        train(tmp_path / "b" / "m", tiny_tokenizer, report=killed_after(step))
    train(tmp_path / "b" / "m", tiny_tokenizer, resume=True)
    assert all((tmp_path / "a/m" / file).read_bytes() == (tmp_path / "b/m" / file).read_bytes() for file in FILES)


def test_a_run_killed_while_the_model_is_written_can_be_resumed(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ctxembed.training.recipes, "save_checkpoint", killed)
        with pytest.raises(Killed):
            train(tmp_path / "m", tiny_tokenizer)
    resumed = train(tmp_path / "m", tiny_tokenizer, resume=True)
    assert resumed.fingerprint == train(tmp_path / "again", tiny_tokenizer).fingerprint
    assert len((tmp_path / "m" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 6 + 2


def test_a_run_killed_before_its_first_save_takes_the_tokenizer_that_is_given_now(tmp_path: Path) -> None:
    config = TokenizerConfig(vocab_size=90, min_frequency=1)
    with pytest.raises(Killed):
        train(tmp_path / "m", config, report=killed_after(1))
    other = replace(config, vocab_size=80)
    resumed = train(tmp_path / "m", other, resume=True)
    assert resumed.fingerprint == train(tmp_path / "anew" / "m", other).fingerprint


def test_what_the_tokenizer_learned_from_is_said_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctxembed.training.recipes, "TOKENIZER_SAMPLE", 5)
    config = TokenizerConfig(vocab_size=90, min_frequency=1)
    said: list[str] = []
    train(tmp_path / "m", config, tell=said.append)
    assert said == ["the tokenizer learned from 5 documents (a seeded sample of at most 5)"]
    notes = json.loads((tmp_path / "m" / "training.json").read_text(encoding="utf-8"))
    assert notes["tokenizer_documents"] == 5
    assert notes["given_tokenizer"]["vocab_size"] == 90


def test_nothing_is_said_about_a_tokenizer_that_was_trained_before(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    said: list[str] = []
    train(tmp_path / "m", tiny_tokenizer, tell=said.append)
    assert said == []
    assert "tokenizer_documents" not in json.loads((tmp_path / "m" / "training.json").read_text(encoding="utf-8"))


def test_figures_are_measured_on_the_model_in_training_without_changing_it(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    def measure(checkpoint: Checkpoint) -> dict[str, float]:
        vectors = Embedder(checkpoint, dtype="bfloat16").encode(["the bank", "the river"])
        return {"cosine": float(vectors[0] @ vectors[1])}

    measured = train(tmp_path / "a" / "m", tiny_tokenizer, evaluate=measure)
    assert measured.fingerprint == train(tmp_path / "b" / "m", tiny_tokenizer).fingerprint
    lines = [json.loads(line) for line in (tmp_path / "a/m/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if "cosine" in line] == [3, 6]


# What is refused


def test_a_folder_that_holds_a_model_is_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    train(tmp_path / "m", tiny_tokenizer)
    for resume in (False, True):
        with pytest.raises(InvalidInputError, match="m already holds a model: choose another output, or delete it"):
            train(tmp_path / "m", tiny_tokenizer, resume=resume)


def test_an_unfinished_run_is_not_begun_anew(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path / "m", tiny_tokenizer, report=killed_after(3))
    with pytest.raises(InvalidInputError, match="holds an unfinished run: --resume it, or delete the folder"):
        train(tmp_path / "m", tiny_tokenizer)


def test_a_run_resumed_with_other_settings_is_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path / "m", tiny_tokenizer, report=killed_after(3))
    with pytest.raises(InvalidInputError, match="the run was started with seed = 3, now it is 8"):
        train(tmp_path / "m", tiny_tokenizer, resume=True, training=replace(TRAINING, seed=8))


@pytest.mark.parametrize("change", [{"lowercase": False}, {"vocab_size": 80}])
def test_a_run_resumed_with_another_tokenizer_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    config = TokenizerConfig(vocab_size=90, min_frequency=1)
    with pytest.raises(Killed):
        train(tmp_path / "m", config, report=killed_after(3))
    with pytest.raises(InvalidInputError, match="the run was started with given_tokenizer = "):
        train(tmp_path / "m", replace(config, **change), resume=True)


def test_a_run_resumed_with_another_trained_tokenizer_is_refused(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        train(tmp_path / "m", TokenizerConfig(vocab_size=90, min_frequency=1), report=killed_after(3))
    with pytest.raises(InvalidInputError, match=f"given_tokenizer = .*, now it is '{tiny_tokenizer.fingerprint}'"):
        train(tmp_path / "m", tiny_tokenizer, resume=True)


def test_a_run_resumed_on_another_corpus_of_equal_size_is_refused(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        train(tmp_path / "m", tiny_tokenizer, report=killed_after(3))
    turned = [*DOCUMENTS[1:], DOCUMENTS[0]]
    with pytest.raises(InvalidInputError, match="the run was started with texts_sha256 = "):
        train(tmp_path / "m", tiny_tokenizer, resume=True, documents=turned)


def test_nothing_to_resume_is_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="m holds no run to resume: leave out --resume"):
        train(tmp_path / "m", tiny_tokenizer, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hiden_size": 16}, "unknown setting 'hiden_size' for EncoderConfig: did you mean 'hidden_size'"),
        ({"num_heads": 3}, "hidden_size = 16 is not a multiple of num_heads = 3"),
        ({"vocab_size": 50}, "vocab_size is not the encoder's to choose: it follows from the tokenizer"),
        ({"max_length": 16}, "rows of max_length = 24 tokens, but the encoder's is 16"),
    ],
)
def test_an_impossible_shape_is_refused_before_anything_is_written(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, change: dict[str, int], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        train(tmp_path / "m", tiny_tokenizer, shape={**SHAPE, **change})
    assert not (tmp_path / "m").exists()


def test_a_corpus_without_text_is_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    run = Run(folder=tmp_path / "m", training=TRAINING)
    with pytest.raises(InvalidInputError, match="the corpus holds no text to train on"):
        train_mlm([Document("0", " ")], run=run, shape=SHAPE, tokenizer=tiny_tokenizer)


def test_documents_that_can_be_read_once_only_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="is a one-shot iterator, and several passes are needed"):
        prepare_documents(iter(DOCUMENTS), most=None, seed=1)


def test_a_sample_of_the_documents_follows_from_the_seed() -> None:
    one, same, other = (list(prepare_documents(DOCUMENTS, most=5, seed=seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert len(one) == 5
    assert prepare_documents(DOCUMENTS, most=None, seed=1) is DOCUMENTS


# Distillation


def test_distilling_gives_another_model_and_leaves_the_initial_one(
    targets: VectorTargets, tiny_model: Path, tmp_path: Path
) -> None:
    initial = load_checkpoint(tiny_model)
    before = {name: value.clone() for name, value in initial.encoder.state_dict().items()}
    student = distill(targets, run=Run(folder=tmp_path / "s", training=TRAINING), initial=initial)
    assert all(torch.equal(value, before[name]) for name, value in initial.encoder.state_dict().items())
    assert student.name == "s"
    assert student.fingerprint == load_checkpoint(tmp_path / "s").fingerprint != initial.fingerprint
    notes = json.loads((tmp_path / "s" / "training.json").read_text(encoding="utf-8"))
    assert (notes["objective"], notes["initial"]) == ("distill", initial.fingerprint)
    assert notes["teachers"] == {"sentences": {"fingerprint": "random", "layer": None}, "words": {}}
    assert notes["pooling"] == {"sentence": "mean", "usage_layer": -1}


def test_the_model_in_training_is_not_taken_for_the_initial_one(
    targets: VectorTargets, tiny_model: Path, tmp_path: Path
) -> None:
    seen: list[str] = []

    def measure(checkpoint: Checkpoint) -> dict[str, float]:
        seen.append(checkpoint.fingerprint)
        return {}

    run = Run(folder=tmp_path / "s", training=TRAINING, evaluate=measure)
    distill(targets, run=run, initial=load_checkpoint(tiny_model))
    assert seen == ["", ""]


@pytest.mark.parametrize("pooling", [None, PoolingConfig(sentence="cls", usage_layer=1)])
def test_a_distilled_model_pools_as_asked_or_as_before(
    targets: VectorTargets, tiny_model: Path, tmp_path: Path, pooling: PoolingConfig | None
) -> None:
    run = Run(folder=tmp_path / "s", training=replace(TRAINING, max_steps=1))
    student = distill(targets, run=run, initial=load_checkpoint(tiny_model), pooling=pooling)
    assert student.pooling == (pooling or PoolingConfig())


def test_a_killed_distillation_that_is_resumed_gives_the_same_files(
    targets: VectorTargets, tiny_model: Path, tmp_path: Path
) -> None:
    initial = load_checkpoint(tiny_model)
    whole, parts = (Run(folder=tmp_path / parent / "s", training=TRAINING) for parent in "ab")
    distill(targets, run=whole, initial=initial)
    with pytest.raises(Killed):
        distill(targets, run=replace(parts, report=killed_after(4)), initial=initial)
    distill(targets, run=replace(parts, resume=True), initial=initial)
    assert all((whole.folder / file).read_bytes() == (parts.folder / file).read_bytes() for file in FILES)


def test_an_initial_model_without_head_is_refused_before_anything_is_written(
    targets: VectorTargets, tiny_model: Path, tmp_path: Path
) -> None:
    bare = replace(load_checkpoint(tiny_model), head=None)
    with pytest.raises(
        InvalidInputError, match="the model tiny has no masked-word head: start from one made by train mlm"
    ):
        distill(targets, run=Run(folder=tmp_path / "s", training=TRAINING), initial=bare)
    assert not (tmp_path / "s").exists()


def test_a_run_begun_from_another_model_is_refused(targets: VectorTargets, tiny_model: Path, tmp_path: Path) -> None:
    run = Run(folder=tmp_path / "s", training=TRAINING)
    initial = load_checkpoint(tiny_model)
    with pytest.raises(Killed):
        distill(targets, run=replace(run, report=killed_after(3)), initial=initial)
    with pytest.raises(InvalidInputError, match="the run was started with initial = "):
        distill(targets, run=replace(run, resume=True), initial=replace(initial, fingerprint="other"))


@pytest.mark.parametrize(
    ("other", "message"),
    [({"fingerprint": "other"}, "teachers = .*'random'.*, now it is .*'other'"), ({"layer": 3}, "teachers = .*: 3")],
)
def test_a_distillation_resumed_with_another_teacher_is_refused(
    targets: VectorTargets,
    tiny_tokenizer: SubwordTokenizer,
    tiny_model: Path,
    tmp_path: Path,
    other: dict[str, Any],
    message: str,
) -> None:
    run = Run(folder=tmp_path / "s", training=TRAINING)
    initial = load_checkpoint(tiny_model)
    with pytest.raises(Killed):
        distill(targets, run=replace(run, report=killed_after(3)), initial=initial)
    swapped = VectorTargets(tiny_tokenizer, sentences=[teacher(tmp_path / "other", **other)], max_length=24)
    with pytest.raises(InvalidInputError, match=message):
        distill(swapped, run=replace(run, resume=True), initial=initial)


def test_a_distillation_resumed_with_another_pooling_is_refused(
    targets: VectorTargets, tiny_model: Path, tmp_path: Path
) -> None:
    run = Run(folder=tmp_path / "s", training=TRAINING)
    initial = load_checkpoint(tiny_model)
    with pytest.raises(Killed):
        distill(targets, run=replace(run, report=killed_after(3)), initial=initial)
    with pytest.raises(InvalidInputError, match="the run was started with pooling = "):
        distill(targets, run=replace(run, resume=True), initial=initial, pooling=PoolingConfig(usage_layer=1))


def test_a_usage_layer_that_the_model_lacks_is_refused_before_anything_is_written(
    targets: VectorTargets, tiny_model: Path, tmp_path: Path
) -> None:
    run = Run(folder=tmp_path / "s", training=TRAINING)
    with pytest.raises(InvalidInputError, match="usage_layer = 9: the model has layers"):
        distill(targets, run=run, initial=load_checkpoint(tiny_model), pooling=PoolingConfig(usage_layer=9))
    assert not (tmp_path / "s").exists()
