"""A run that was killed ends where an undisturbed one does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.training.batches import chunk_texts
from ctxembed.training.objectives.contrastive import SimCSE
from ctxembed.training.trainer import Part, Trainer

from .training_runs import (
    CONFIG,
    TEXTS,
    Odd,
    assert_same_end,
    float32,  # noqa: F401
    masked,
    masked_trainer,
    metrics,
    run,
    same,
    set_precision,
    state_of,
    tiny,
    trainer_of,
)

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer


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
