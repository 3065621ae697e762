"""The training loop on tiny shapes: it learns, and a run that was killed ends where an undisturbed one does."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

import ctxembed.training.trainer
from ctxembed.config import EncoderConfig, PoolingConfig, TrainingConfig
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.model.checkpoint import Checkpoint, checkpoint_modules
from ctxembed.model.embeddings import sinusoidal_positions
from ctxembed.model.encoder import MaskedWordHead, TransformerEncoder
from ctxembed.training.batches import TokenRows, chunk_texts
from ctxembed.training.objectives.base import Loss, Objective
from ctxembed.training.objectives.contrastive import Contrastive, SimCSE
from ctxembed.training.objectives.mlm import MaskedBatch, MaskedLanguageModelling, MaskingConfig
from ctxembed.training.pairs import PairCounts, PairRows
from ctxembed.training.progress import DivergedError, learning_rate_at
from ctxembed.training.trainer import Part, Trainer

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

PLACES, THINGS = ("bank", "river", "plant", "train"), ("the bass", "a spring", "the old crane", "the cars", "a band")
TEXTS = [f"she read of {thing} near the {place}" for place, thing in itertools.product(PLACES, THINGS)]
CONFIG = {
    "max_steps": 10,
    "batch_tokens": 64,
    "max_length": 16,
    "learning_rate": 5e-3,
    "seed": 3,
    "eval_every": 4,
    "save_every": 3,
}


class Killed(Exception):
    """Stands for what ends a process."""


def set_precision(monkeypatch: pytest.MonkeyPatch, *, low: bool) -> None:
    monkeypatch.setattr(ctxembed.training.trainer, "is_bfloat16_fast", lambda _: low)


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests mean float32 unless they say otherwise, whatever the machine is good at."""
    set_precision(monkeypatch, low=False)


def tiny(tokenizer: SubwordTokenizer, *, dropout: float = 0.1, **shape: Any) -> Checkpoint:
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "max_length": 16}
    config = EncoderConfig(**{**sizes, "vocab_size": len(tokenizer), "dropout": dropout, **shape})
    torch.manual_seed(5)
    encoder, head = TransformerEncoder(config), MaskedWordHead(config)
    return Checkpoint(name="tiny", encoder=encoder, head=head, tokenizer=tokenizer, pooling=PoolingConfig())


def masked(
    tokenizer: SubwordTokenizer, texts: Sequence[str] = TEXTS, kind: type[MaskedLanguageModelling] | None = None
) -> MaskedLanguageModelling:
    store = chunk_texts(texts, tokenizer, max_length=16)
    return (kind or MaskedLanguageModelling)(store, tokenizer, config=MaskingConfig())


def trainer_of(
    folder: Path, model: Checkpoint, *parts: Part | Objective[Any], started: float | None = None, **changes: Any
) -> Trainer:
    listed = [part if isinstance(part, Part) else Part(part) for part in parts]
    return Trainer(model, listed, config=TrainingConfig(**{**CONFIG, **changes}), folder=folder, started=started)


def masked_trainer(
    folder: Path, tokenizer: SubwordTokenizer, *, texts: Sequence[str] = TEXTS, dropout: float = 0.1, **changes: Any
) -> Trainer:
    return trainer_of(folder, tiny(tokenizer, dropout=dropout), masked(tokenizer, texts), **changes)


def run(trainer: Trainer, *, kill_at: int | None = None) -> list[Mapping[str, float]]:
    """Train, or be killed when step ``kill_at`` is done but not saved; return what was reported."""
    reported: list[Mapping[str, float]] = []

    def report(metrics: Mapping[str, float]) -> None:
        reported.append(metrics)
        if metrics["step"] == kill_at:
            raise Killed

    if kill_at is None:
        trainer.fit(report=report)
    else:
        with pytest.raises(Killed):
            trainer.fit(report=report)
    return reported


def metrics(trainer: Trainer) -> list[dict[str, float]]:
    """What metrics.jsonl holds, apart from the time."""
    text = trainer.metrics_file.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def state_of(trainer: Trainer) -> dict[str, Tensor]:
    with safe_open(str(trainer.folder / "state.safetensors"), framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two sets of tensors, of one at least, are the same bit for bit."""
    return bool(one) and one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def timeless(trainer: Trainer) -> dict[str, Any]:
    return {name: value for name, value in vars(trainer.progress).items() if name not in ("seconds", "prepared")}


def assert_same_end(one: Trainer, other: Trainer) -> None:
    """Weights, moments, progress and metrics are the same, bit for bit."""
    assert same(state_of(one), state_of(other))
    assert same(*(dict(each.model.encoder.named_parameters()) for each in (one, other)))
    assert timeless(one) == timeless(other)
    assert metrics(one) == metrics(other)


# Learning


@pytest.mark.parametrize("low", [False, True])
def test_masked_modelling_overfits_one_small_batch(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: bool
) -> None:
    set_precision(monkeypatch, low=low)
    model = tiny(tiny_tokenizer, dropout=0.0, hidden_size=32)
    trainer = trainer_of(
        tmp_path, model, masked(tiny_tokenizer, TEXTS[:9]), max_steps=160, batch_tokens=512, learning_rate=2e-2
    )
    reported = run(trainer)
    assert reported[0]["loss"] > 4  # the logarithm of the vocabulary is 4.7
    assert np.mean([line["loss"] for line in reported[-20:]]) < 0.6
    assert np.mean([line["mlm_accuracy"] for line in reported[-20:]]) > 0.8


def test_what_was_learned_counts_in_evaluation_mode(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer, texts=TEXTS[:1], max_steps=160, learning_rate=2e-2)
    before = trainer.evaluate()["eval_loss"]
    run(trainer)
    assert before > 4
    assert trainer.evaluate()["eval_loss"] < 1


# Resuming


class Odd(MaskedLanguageModelling):
    """Has a parameter of its own that every other batch says nothing about."""

    kind = "odd"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        torch.manual_seed(8)
        self.map = nn.Linear(16, 1)
        self.calls = 0

    def forward(self, model: Checkpoint, batch: MaskedBatch) -> Loss:
        loss = super().forward(model, batch)
        if int(batch.ids.sum()) % 2:
            return loss
        sentence = model.encoder(batch.ids, batch.lengths).last.mean(dim=1).float()
        return replace(loss, value=loss.value + self.map(sentence).square().mean())


def mixture_trainer(folder: Path, tokenizer: SubwordTokenizer, accumulation: int) -> Trainer:
    store = chunk_texts(TEXTS, tokenizer, max_length=16)
    parts = Part(masked(tokenizer, kind=Odd), share=2.0), Part(SimCSE(store, pad_id=tokenizer.pad_id), weight=0.5)
    return trainer_of(folder, tiny(tokenizer), *parts, accumulation=accumulation, batch_tokens=96)


CASES = {"float32": (1, False), "accumulated": (2, False), "bfloat16": (1, True)}


@pytest.fixture(scope="module")
def undisturbed(tiny_tokenizer: SubwordTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trainer]:
    known: dict[str, Trainer] = {}

    def of(case: str) -> Trainer:
        if case not in known:
            accumulation, low = CASES[case]
            with pytest.MonkeyPatch.context() as patch:
                set_precision(patch, low=low)
                known[case] = mixture_trainer(tmp_path_factory.mktemp(case), tiny_tokenizer, accumulation)
                run(known[case])
        return known[case]

    return of


@pytest.mark.parametrize(
    ("case", "kills"),
    [
        *(("float32", [step]) for step in range(1, 11)),
        ("float32", [5, 5, 8]),
        ("accumulated", [2]),
        ("accumulated", [8]),
        ("bfloat16", [4]),
        ("bfloat16", [9]),
    ],
)
def test_a_killed_run_ends_as_an_uninterrupted_one(
    tiny_tokenizer: SubwordTokenizer,
    tmp_path: Path,
    undisturbed: Callable[[str], Trainer],
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    kills: list[int],
) -> None:
    accumulation, low = CASES[case]
    set_precision(monkeypatch, low=low)
    for number, step in enumerate(kills):
        killed = mixture_trainer(tmp_path, tiny_tokenizer, accumulation)
        assert killed.resume() == (number > 0 and kills[number - 1] > CONFIG["save_every"])
        run(killed, kill_at=step)
    resumed = mixture_trainer(tmp_path, tiny_tokenizer, accumulation)
    assert resumed.resume() == (kills[-1] > CONFIG["save_every"])
    assert resumed.progress.step == (kills[-1] - 1) // CONFIG["save_every"] * CONFIG["save_every"]
    run(resumed)
    assert resumed.progress.step == 10
    assert_same_end(resumed, undisturbed(case))


def test_the_mixture_that_is_killed_is_no_trivial_one(undisturbed: Callable[[str], Trainer]) -> None:
    trainer = undisturbed("float32")
    lines = [line for line in metrics(trainer) if "loss" in line]
    assert all({"mlm", "simcse", "simcse_accuracy"} <= line.keys() for line in lines)
    state = state_of(trainer)
    assert "weight.objectives.0.map.weight" in state
    assert all(state[f"first.{name}"].any() for name in ("model.head.bias", "objectives.0.map.weight"))
    assert not same(state, state_of(undisturbed("accumulated")))


def test_metrics_of_a_killed_run_hold_no_step_twice(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    run(masked_trainer(tmp_path, tiny_tokenizer), kill_at=8)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 8, "lo')  # the line that was being written
    resumed = masked_trainer(tmp_path, tiny_tokenizer)
    resumed.resume()
    assert [line["step"] for line in metrics(resumed)] == [1, 2, 3, 4, 4, 5, 6]  # twice 4: with the evaluation
    run(resumed)
    trained = [line["step"] for line in metrics(resumed) if "loss" in line]
    evaluated = [line["step"] for line in metrics(resumed) if "eval_loss" in line]
    assert trained == list(range(1, 11))
    assert evaluated == [4, 8, 10]


def test_a_finished_run_that_is_resumed_stays_as_it_is(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    finished, again = (masked_trainer(tmp_path, tiny_tokenizer) for _ in range(2))
    run(finished)
    state = (tmp_path / "state.safetensors").read_bytes()
    assert again.resume()
    assert run(again) == []
    assert (tmp_path / "state.safetensors").read_bytes() == state
    assert_same_end(again, finished)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "started with seed = 3, now it is 4: resume with the same settings"),
        ({"max_steps": 20}, "started with max_steps = 10, now it is 20"),
        ({"budget": 60.0}, "started with budget = None, now it is 60.0"),
        ({"batch_tokens": 128}, "started with batch_tokens = 64, now it is 128"),
    ],
)
def test_other_settings_are_refused(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run(masked_trainer(tmp_path, tiny_tokenizer), kill_at=5)
    with pytest.raises(InvalidInputError, match=message):
        masked_trainer(tmp_path, tiny_tokenizer, **changes).resume()


def test_how_often_a_run_is_saved_and_evaluated_may_change_when_it_is_resumed(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    whole = masked_trainer(tmp_path / "whole", tiny_tokenizer)
    run(whole)
    run(masked_trainer(tmp_path / "killed", tiny_tokenizer), kill_at=5)
    other = masked_trainer(tmp_path / "killed", tiny_tokenizer, save_every=3, eval_every=7)
    assert other.resume()
    run(other)
    assert same(state_of(other), state_of(whole))


def test_a_damaged_state_is_refused(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    run(masked_trainer(tmp_path, tiny_tokenizer), kill_at=5)
    state = tmp_path / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"state.safetensors cannot be read \(.*: delete .* and start anew"):
        masked_trainer(tmp_path, tiny_tokenizer).resume()


# Chance


def test_two_runs_with_one_seed_are_equal_and_another_seed_is_not(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    one, again, other = (
        masked_trainer(tmp_path / name, tiny_tokenizer, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    losses = [[line["loss"] for line in run(trainer)] for trainer in (one, again, other)]
    assert losses[0] == losses[1] != losses[2]
    assert_same_end(one, again)
    assert not same(state_of(one), state_of(other))


class Dropping(MaskedLanguageModelling):
    """Always sees the same rows, unmasked: its loss differs by what is dropped alone."""

    def prepare(self, items: NDArray[np.int64], *, seed: Sequence[int]) -> MaskedBatch:
        batch = super().prepare(np.array([0, 1]), seed=(1,))
        return replace(batch, ids=torch.full_like(batch.ids, 7))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_what_is_dropped_differs_from_step_to_step(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, dropout: float
) -> None:
    task = masked(tiny_tokenizer, kind=Dropping)
    trainer = trainer_of(tmp_path, tiny(tiny_tokenizer, dropout=dropout), task, learning_rate=1e-30)
    losses = {round(line["loss"], 5) for line in run(trainer)}
    assert len(losses) == (10 if dropout else 1)


# Mixtures: what reaches the weights


class Recorded(MaskedLanguageModelling):
    """Remembers what it was asked for in training, and in evaluation."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.asked: list[tuple[NDArray[np.int64], tuple[int, ...]]] = []
        self.measured: list[NDArray[np.int64]] = []

    def prepare(self, items: NDArray[np.int64], *, seed: Sequence[int]) -> MaskedBatch:
        if torch.is_grad_enabled():
            self.asked.append((items, tuple(seed)))
        else:
            self.measured.append(items)
        return super().prepare(items, seed=seed)


def pairs_of(tokenizer: SubwordTokenizer) -> Contrastive:
    anchors, positives = (chunk_texts(texts, tokenizer, max_length=16) for texts in (TEXTS[:-1], TEXTS[1:]))
    pairs = PairRows(
        anchors=anchors,
        positives=positives,
        negatives=TokenRows.from_lists([]),
        negative_starts=np.zeros(len(anchors) + 1, dtype=np.int64),
        counts=PairCounts(),
    )
    return Contrastive(pairs, pad_id=tokenizer.pad_id)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_gradient_of_a_mixture_is_the_weighted_sum_of_its_parts(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, accumulation: int
) -> None:
    model = tiny(tiny_tokenizer, dropout=0.0)
    initial = copy.deepcopy(checkpoint_modules(model))
    pieces: list[tuple[int, NDArray[np.int64], tuple[int, ...]]] = []
    tasks: list[Objective[Any]] = [masked(tiny_tokenizer), pairs_of(tiny_tokenizer)]
    for number, task in enumerate(tasks):
        # Instances, so that the kind of the task is what it would be.
        def prepare(items: Any, *, seed: Any, number: int = number, prepare: Any = task.prepare) -> Any:
            if torch.is_grad_enabled():
                pieces.append((number, items, seed))
            return prepare(items, seed=seed)

        task.prepare = prepare  # type: ignore[method-assign]
    parts = Part(tasks[0], share=3.0, weight=0.25), Part(tasks[1], share=1.0, weight=2.0)
    limits = {"max_steps": 1, "clip_norm": 1e9, "batch_tokens": 192}
    trainer = trainer_of(tmp_path, model, *parts, accumulation=accumulation, **limits)
    (line,) = run(trainer)
    assert [number for number, _, _ in pieces] == [0] * accumulation + [1]  # rows that are compared stay together
    assert len({seed for _, _, seed in pieces}) == len(pieces)

    own = replace(model, encoder=initial["encoder"], head=initial["head"])
    total = torch.zeros(())
    for number, part in enumerate(parts):
        asked = [(items, seed) for each, items, seed in pieces if each == number]
        tokens = [int(part.objective.costs[items].sum()) for items, _ in asked]
        for (items, seed), cost in zip(asked, tokens, strict=True):
            loss = part.objective(own, part.objective.prepare(items, seed=seed))
            total = total + part.weight * cost / sum(tokens) * loss.value
    gradients = torch.autograd.grad(total, list(initial.parameters()))
    assert line["loss"] == pytest.approx(total.item(), rel=1e-5)
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
    assert line["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    state = state_of(trainer)
    for (name, _), gradient in zip(initial.named_parameters(), gradients, strict=True):
        # After one step the first moment is a tenth of the gradient.
        torch.testing.assert_close(10 * state[f"first.model.{name}"], gradient, rtol=1e-3, atol=1e-6)


def test_objectives_get_their_shares_of_the_tokens(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    tasks = [masked(tiny_tokenizer, TEXTS * 4, Recorded) for _ in range(3)]
    parts = [Part(task, share=share) for task, share in zip(tasks, (4.0, 2.0, 1.0), strict=True)]
    trainer = trainer_of(tmp_path, tiny(tiny_tokenizer), *parts, batch_tokens=448, max_steps=12)
    run(trainer)
    tokens = np.array([sum(int(task.costs[items].sum()) for items, _ in task.asked) for task in tasks])
    np.testing.assert_allclose(tokens / tokens.sum(), [4 / 7, 2 / 7, 1 / 7], rtol=0.1)
    assert trainer.progress.tokens == tokens.sum()


def test_two_objectives_of_one_kind_are_told_apart_in_metrics(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    parts = [Part(masked(tiny_tokenizer, texts), weight=weight) for texts, weight in ((TEXTS, 0.5), (TEXTS[:3], 2.0))]
    trainer = trainer_of(tmp_path, tiny(tiny_tokenizer), *parts, max_steps=2)
    reported = run(trainer)
    figures = trainer.evaluate()
    for line, prefix in [(reported[0], ""), (reported[1], ""), (figures, "eval_")]:
        assert f"{prefix}mlm" not in line
        assert line[f"{prefix}mlm_1"] != line[f"{prefix}mlm_2"]
        expected = 0.5 * line[f"{prefix}mlm_1"] + 2.0 * line[f"{prefix}mlm_2"]
        assert line[f"{prefix}loss"] == pytest.approx(expected, rel=1e-5)
        assert f"{prefix}mlm_accuracy_2" in line


@pytest.mark.parametrize("field", ["share", "weight"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_share_or_weight_that_is_not_positive_is_refused(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, field: str, value: float
) -> None:
    part = Part(masked(tiny_tokenizer), **{field: value})
    with pytest.raises(InvalidInputError, match=f"{field} = {value} of mlm: must be above 0"):
        trainer_of(tmp_path, tiny(tiny_tokenizer), part)


# The loop


def test_held_out_rows_are_never_trained_on(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    task = masked(tiny_tokenizer, kind=Recorded)
    assert isinstance(task, Recorded)
    trainer = trainer_of(tmp_path, tiny(tiny_tokenizer), task)
    run(trainer)
    trained = set(np.concatenate([items for items, _ in task.asked]).tolist())
    held_out = set(np.concatenate(task.measured).tolist())
    assert len(held_out) == 1
    assert trained == set(range(len(TEXTS))) - held_out


def test_evaluation_changes_nothing_and_repeats_itself(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer)
    before = {name: value.clone() for name, value in trainer.model.encoder.state_dict().items()}
    assert trainer.evaluate() == trainer.evaluate()
    assert same(trainer.model.encoder.state_dict(), before)


def test_figures_measured_beside_join_the_metrics_in_evaluation_mode(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer)
    modes: list[bool] = []

    def measure() -> dict[str, float]:
        modes.append(trainer.model.encoder.training)
        return {"quality": 0.25}

    trainer.fit(evaluate=measure)
    assert [line["step"] for line in metrics(trainer) if line.get("quality") == 0.25] == [4, 8, 10]
    assert modes == [False] * 3


def test_every_step_is_reported_as_it_is_logged(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer)
    reported = run(trainer)
    logged = [line for line in metrics(trainer) if "loss" in line]
    assert [line["step"] for line in reported] == list(range(1, 11))
    assert [line["done"] for line in reported] == pytest.approx(np.arange(1, 11) / 10)
    for shown, written in zip(reported, logged, strict=True):
        assert next(iter(written)) == "step"
        assert {"loss", "mlm", "mlm_accuracy", "tokens", "learning_rate", "gradient_norm"} <= written.keys()
        shared = shown.keys() & written.keys()
        assert {name: written[name] for name in shared} == pytest.approx(
            {name: shown[name] for name in shared}, rel=1e-5
        )


def test_the_time_and_tokens_of_metrics_only_grow(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer)
    run(trainer)
    lines = [json.loads(line) for line in trainer.metrics_file.read_text(encoding="utf-8").splitlines()]
    for name in ("seconds", "tokens"):
        values = [line[name] for line in lines]
        assert values == sorted(values)
        assert 0 < values[0] < values[-1]


def test_the_learning_rate_of_a_step_is_that_of_its_middle(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer, warmup_fraction=0.2)
    rates = [line["learning_rate"] for line in run(trainer)]
    expected = [learning_rate_at((step + 0.5) / 10, trainer.config) for step in range(10)]
    assert rates == pytest.approx(expected, rel=1e-9)
    assert rates[0] == pytest.approx(0.25 * trainer.config.learning_rate)
    assert rates[-1] < 0.02 * trainer.config.learning_rate


@dataclass
class Nothing:
    """A batch of no content."""

    num_tokens: int = 1

    def to(self, device: torch.device) -> Nothing:
        return self


class Still(Objective[Nothing]):
    """Asks for nothing: its gradient is zero."""

    kind = "still"

    def __init__(self) -> None:
        super().__init__()
        self.costs, self.settings = np.full(10, 4), {}

    def prepare(self, items: NDArray[np.int64], *, seed: Sequence[int]) -> Nothing:
        return Nothing()

    def forward(self, model: Checkpoint, batch: Nothing) -> Loss:
        return Loss(model.encoder.embedding.tokens.weight.sum() * 0.0, {}, 1)


def test_weight_decay_is_on_matrices_only(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    model = tiny(tiny_tokenizer)
    before = {name: value.detach().clone() for name, value in checkpoint_modules(model).named_parameters()}
    settings = {"learning_rate": 0.1, "warmup_fraction": 0.0, "weight_decay": 0.5, "max_steps": 1}
    trainer = trainer_of(tmp_path, model, Still(), **settings)
    (line,) = run(trainer)
    after = state_of(trainer)
    kinds = {True: 0, False: 0}
    for name, value in before.items():
        shrunk = 1 - 0.5 * line["learning_rate"] if value.ndim >= 2 else 1.0
        torch.testing.assert_close(after[f"weight.model.{name}"], shrunk * value)
        kinds[value.ndim >= 2] += bool(value.any())
    assert min(kinds.values()) > 3


def test_gradients_are_clipped_to_their_norm(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer, max_steps=1, clip_norm=0.01)
    (line,) = run(trainer)
    moments = [10 * value for name, value in state_of(trainer).items() if name.startswith("first.")]
    assert line["gradient_norm"] > 0.1  # what is told is the norm before
    assert torch.cat([value.flatten() for value in moments]).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_progress_counts_real_tokens(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    task = masked(tiny_tokenizer, kind=Recorded)
    assert isinstance(task, Recorded)
    trainer = trainer_of(tmp_path, tiny(tiny_tokenizer), task, max_steps=1, batch_tokens=1000)
    run(trainer)
    ((items, _),) = task.asked
    assert len(items) == len(TEXTS) - 1
    assert trainer.progress.tokens == task.costs[items].sum()


def test_a_store_of_one_row_is_trained_on_and_evaluated(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer, texts=TEXTS[:1], max_steps=2)
    assert len(run(trainer)) == 2
    assert 0 < trainer.evaluate()["eval_loss"] < 10


# Number formats


def test_steps_too_small_for_bfloat16_are_not_lost(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_precision(monkeypatch, low=True)
    model = tiny(tiny_tokenizer, dropout=0.0)
    before = {name: value.detach().clone() for name, value in checkpoint_modules(model).named_parameters()}
    settings = {"learning_rate": 1e-5, "warmup_fraction": 0.0, "weight_decay": 0.0, "max_steps": 3}
    trainer = trainer_of(tmp_path, model, masked(tiny_tokenizer), **settings)
    formats: set[torch.dtype] = set()
    trainer.fit(report=lambda _: formats.update(value.dtype for value in model.encoder.parameters()))
    assert formats == {torch.bfloat16}
    state = state_of(trainer)
    trainer.finish()
    moved = kept = 0
    for name, value in checkpoint_modules(model).named_parameters():
        assert value.dtype == state[f"weight.model.{name}"].dtype == torch.float32
        assert torch.equal(value, state[f"weight.model.{name}"])
        large = before[name].abs() > 0.01
        moved += int((value != before[name])[large].sum())
        kept += int((value.bfloat16() == before[name].bfloat16())[large].sum())
        assert (value - before[name]).abs().max() < 4e-5
    assert moved > 2000
    assert kept > 0.7 * moved  # in bfloat16 alone most would not have moved


def test_what_is_fixed_and_what_objectives_add_stays_float32(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_precision(monkeypatch, low=True)
    model, task = tiny(tiny_tokenizer, positions="sinusoidal"), masked(tiny_tokenizer, kind=Odd)
    trainer = trainer_of(tmp_path, model, task, max_steps=2)
    run(trainer)
    assert {value.dtype for value in task.parameters()} == {torch.float32}
    trainer.finish()
    assert model.encoder.embedding.sinusoids is not None
    assert torch.equal(model.encoder.embedding.sinusoids, sinusoidal_positions(16, 16))


def test_a_finished_model_is_in_float32_and_evaluation_mode(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer)
    run(trainer)
    trainer.finish()
    assert not trainer.model.encoder.training
    weights = {f"weight.model.encoder.{name}": value for name, value in trainer.model.encoder.named_parameters()}
    state = state_of(trainer)
    assert same(weights, {name: state[name] for name in weights})


# Going wrong


class Falsified(MaskedLanguageModelling):
    """Its loss is changed from some training step on."""

    change: Callable[[Tensor], Tensor]
    at: int | range = 0

    def forward(self, model: Checkpoint, batch: MaskedBatch) -> Loss:
        loss = super().forward(model, batch)
        self.calls = getattr(self, "calls", 0) + torch.is_grad_enabled()
        steps = self.at if isinstance(self.at, range) else range(self.at, 10_000)
        return replace(loss, value=self.change(loss.value)) if self.calls in steps else loss


def falsified_trainer(
    folder: Path,
    tokenizer: SubwordTokenizer,
    change: Callable[[Tensor], Tensor],
    *,
    at: int | range,
    **changes: Any,
) -> Trainer:
    task = masked(tokenizer, kind=Falsified)
    assert isinstance(task, Falsified)
    task.change, task.at = change, at
    return trainer_of(folder, tiny(tokenizer), task, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value * math.nan, "the loss became nan"),
        (lambda value: value * math.inf, "the loss became inf"),
        (lambda value: value + (value * 0).sqrt(), "the gradient's norm became nan"),
    ],
)
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run_before_it_does_harm(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, change: Callable[[Tensor], Tensor], message: str
) -> None:
    trainer = falsified_trainer(tmp_path, tiny_tokenizer, change, at=6)
    with pytest.raises(DivergedError, match=rf"^{message} at step 6: lower learning_rate \(0\.005\)$"):
        trainer.fit()
    assert [line["step"] for line in metrics(trainer) if "loss" in line] == [1, 2, 3, 4, 5]
    undisturbed = masked_trainer(tmp_path / "other", tiny_tokenizer)
    run(undisturbed, kill_at=5)
    assert same(state_of(trainer), state_of(undisturbed))  # what was saved at step 3
    trainer.finish()
    assert all(value.isfinite().all() for value in trainer.model.encoder.parameters())


def test_a_learning_rate_far_too_high_is_noticed(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = masked_trainer(tmp_path, tiny_tokenizer, learning_rate=1e30)
    with pytest.raises(InvalidInputError, match=r"became (nan|inf) at step \d+: lower learning_rate \(1e\+30\)"):
        trainer.fit()


def test_a_loss_that_rises_far_above_its_lowest_stops_the_run(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = falsified_trainer(tmp_path, tiny_tokenizer, lambda value: 10 * value, at=4, max_steps=60)
    message = r"^the loss rose from 4\.\d+ to \d+\.\d+ \(running means\) at step (\d+): lower learning_rate \(0\.005\)$"
    with pytest.raises(DivergedError, match=message) as raised:
        trainer.fit()
    assert "at step 8" in str(raised.value)  # after five steps the running mean is two and a half times its lowest


def test_a_single_bad_step_does_not_stop_the_run(tiny_tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    trainer = falsified_trainer(tmp_path, tiny_tokenizer, lambda value: 20 * value, at=range(4, 5))
    losses = [line["loss"] for line in run(trainer)]
    assert losses[3] > 10 * losses[2]
    assert len(losses) == 10


# Budgets, by a clock that counts batches


class Clock:
    """Stands for the module time: a second goes by with every batch of ``Ticking``."""

    now = 1000.0

    def perf_counter(self) -> float:
        return self.now


class Ticking(Recorded):
    """Takes a second to prepare a batch."""

    clock: Clock

    def prepare(self, items: NDArray[np.int64], *, seed: Sequence[int]) -> MaskedBatch:
        self.clock.now += torch.is_grad_enabled()
        return super().prepare(items, seed=seed)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(ctxembed.training.trainer, "time", clock)
    monkeypatch.setattr(Ticking, "clock", clock, raising=False)
    return clock


def ticking_trainer(folder: Path, tokenizer: SubwordTokenizer, *, started: float, **changes: Any) -> Trainer:
    task = masked(tokenizer, kind=Ticking)
    limits = {"budget": 100.0, "eval_every": 1000, "save_every": 10, "warmup_fraction": 0.1}
    return trainer_of(folder, tiny(tokenizer), task, started=started, **{**limits, **changes})


def test_a_budget_counts_preparation_and_tells_what_it_allows_and_what_became_of_it(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, clock: Clock
) -> None:
    trainer, told, tokens = ticking_trainer(tmp_path, tiny_tokenizer, started=clock.now - 20), [], []
    trainer.fit(tell=told.append, report=lambda _: tokens.append(trainer.progress.tokens))
    assert (trainer.progress.step, trainer.progress.seconds) == (80, 100.0)
    forecast, truth = told
    assert forecast.startswith("forecast: 80 steps and ")
    assert forecast.endswith(" tokens in 100 s")
    assert truth.startswith("forecast 80 steps, ")
    assert truth.endswith(f"; done 80 steps, {tokens[-1]:,} tokens in 100 s")
    foreseen = int(forecast.split()[4].replace(",", ""))
    assert foreseen == pytest.approx(tokens[-1], rel=0.1)
    assert f"{foreseen:,} tokens; done" in truth


def test_the_learning_rate_of_a_budget_rises_from_the_first_step_on_and_falls_to_nothing(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, clock: Clock
) -> None:
    # Preparation took three times as long as the warm-up.
    trainer = ticking_trainer(tmp_path, tiny_tokenizer, started=clock.now - 30)
    reported = run(trainer)
    rates = np.array([line["learning_rate"] for line in reported]) / trainer.config.learning_rate
    assert len(rates) == 70
    assert rates[0] < 0.05
    assert rates[3] == pytest.approx(0.5, abs=0.05)
    assert rates.argmax() == 7
    assert rates.max() > 0.99
    assert rates[-1] < 0.001
    assert [line["done"] for line in reported] == pytest.approx(np.arange(1, 71) / 70)


def test_a_resumed_run_has_the_rest_of_its_budget(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, clock: Clock
) -> None:
    run(ticking_trainer(tmp_path, tiny_tokenizer, started=clock.now - 20), kill_at=55)
    resumed = ticking_trainer(tmp_path, tiny_tokenizer, started=clock.now - 5)  # its own preparation counts too
    assert resumed.resume()
    assert resumed.progress.step == 50
    reported = run(resumed)
    assert len(reported) == 25
    assert resumed.progress.seconds == 100.0
    assert reported[-1]["learning_rate"] < 0.01 * resumed.config.learning_rate


def test_a_budget_that_preparation_used_up_is_refused(
    tiny_tokenizer: SubwordTokenizer, tmp_path: Path, clock: Clock
) -> None:
    trainer = ticking_trainer(tmp_path, tiny_tokenizer, started=clock.now - 120)
    with pytest.raises(InvalidInputError, match=r"budget = 100\.0: preparing took 120\.0 seconds, raise it"):
        trainer.fit()
    assert not (tmp_path / "state.safetensors").exists()


# The schedule


def test_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    config = TrainingConfig(learning_rate=0.3, warmup_fraction=0.1)
    rates = [learning_rate_at(step / 200, config) for step in range(201)]
    np.testing.assert_allclose(rates[:20], 0.3 * np.arange(20) / 20)
    np.testing.assert_allclose(rates[20:], 0.15 * (1 + np.cos(np.pi * np.arange(181) / 180)), atol=1e-15)
    assert max(rates) == 0.3


def test_without_warm_up_the_first_step_has_the_peak_rate() -> None:
    assert learning_rate_at(0.0, TrainingConfig(learning_rate=0.3, warmup_fraction=0.0)) == 0.3


def test_a_run_that_takes_longer_than_it_should_does_not_learn_backwards() -> None:
    assert learning_rate_at(1.2, TrainingConfig(learning_rate=0.3)) == 0.0
