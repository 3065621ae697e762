"""Two processes that share every batch end where one process with whole batches does, and only the first writes.

This file is also the program that each of the two processes runs.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ctxembed.training.trainer
from ctxembed.config import EncoderConfig, PoolingConfig, TrainingConfig
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint
from ctxembed.model.encoder import MaskedWordHead, TransformerEncoder
from ctxembed.tokenizer import SubwordTokenizer, TokenizerConfig
from ctxembed.training import distributed, plans
from ctxembed.training.batches import TokenRows, chunk_texts
from ctxembed.training.objectives.contrastive import Contrastive, ContrastiveConfig
from ctxembed.training.objectives.mlm import MaskedLanguageModelling, MaskingConfig
from ctxembed.training.pairs import PairCounts, PairRows
from ctxembed.training.plans import Plan
from ctxembed.training.run import Run, train
from ctxembed.training.start import NewModel
from ctxembed.training.trainer import Part, Trainer
from ctxembed.types import Document

CPU = torch.device("cpu")
TEXTS = [
    f"{person} of {thing} near the {place}"
    for person in ("she read", "the farmer spoke")
    for thing in ("a bass", "the old crane", "spring")
    for place in ("bank", "river", "plant", "train")
]
SHAPE = {"hidden_size": 16, "num_layers": 3, "num_heads": 2, "intermediate_size": 24, "max_length": 16, "dropout": 0.0}
LIMITS = {"max_steps": 3, "max_length": 16, "learning_rate": 3e-3, "seed": 5, "eval_every": 3, "save_every": 2}
CASES = {"whole": {"batch_tokens": 288}, "in pieces": {"batch_tokens": 288, "accumulation": 2}}
ROWS = (2, 3)
"""How many rows each process has that are gathered."""
WEIGHT_TOLERANCE = 1e-5
"""float32 sums in another order, after three steps."""


class Killed(Exception):
    """Stands for what ends a process."""


def tokenizer() -> SubwordTokenizer:
    return SubwordTokenizer.train(TEXTS, config=TokenizerConfig(vocab_size=80))


def trainer_of(folder: Path, **changes: Any) -> Trainer:
    """A mixture: one objective whose batches may be cut up, and one that compares rows."""
    tokens = tokenizer()
    config = EncoderConfig(vocab_size=len(tokens), **SHAPE)
    torch.manual_seed(1)
    encoder, head = TransformerEncoder(config), MaskedWordHead(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model = Checkpoint(name="tiny", encoder=encoder, head=head, tokenizer=tokens, pooling=PoolingConfig())
    store = chunk_texts(TEXTS, tokens, max_length=16)
    pairs = PairRows(
        anchors=store,
        positives=chunk_texts(TEXTS[1:] + TEXTS[:1], tokens, max_length=16),
        negatives=TokenRows.from_lists([]),
        negative_starts=np.zeros(len(store) + 1, dtype=np.int64),
        counts=PairCounts(),
    )
    parts = (
        Part(
            MaskedLanguageModelling(store, tokens, config=MaskingConfig(mask_fraction=0.4, drop_fraction=0.5)),
            share=2.0,
        ),
        Part(Contrastive(pairs, pad_id=tokens.pad_id, config=ContrastiveConfig(temperature=0.5)), weight=0.5),
    )
    return Trainer(model, parts, config=TrainingConfig(**{**LIMITS, **changes}), folder=folder)


def trained(folder: Path, **changes: Any) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """The weights after three steps, and what was reported of them with the last evaluation."""
    trainer, reported = trainer_of(folder, **changes), []
    trainer.fit(report=lambda metrics: reported.append({**metrics, "tokens": float(trainer.progress.tokens)}))
    reported.append(trainer.evaluate())
    trainer.finish()
    return dict(trainer.model.encoder.named_parameters()), reported


def model_from_documents(folder: Path, said: list[str], *, kill: bool = False, resume: bool = False) -> Checkpoint:
    documents = [Document(str(number), text) for number, text in enumerate(TEXTS)]
    start = NewModel(shape=SHAPE, tokenizer=TokenizerConfig(vocab_size=80), documents=documents)

    run = Run(
        folder=folder,
        training=TrainingConfig(**LIMITS, batch_tokens=144),
        tell=said.append,
        report=lambda metrics: said.append(f"step {metrics['step']:.0f}"),
        resume=resume,
    )
    with pytest.MonkeyPatch.context() as patch:
        if kill:  # in every process, at step 3: the last checkpoint is that of step 2
            patch.setattr(Trainer, "evaluate", killed)
        return train(start, [Plan(plans.mlm(documents))], run=run)


def killed(trainer: Trainer) -> dict[str, float]:
    raise Killed


# What each of the two processes does


def gathered() -> dict[str, np.ndarray]:
    """Rows of both processes, and the gradient that this one's rows get from what both make of them."""
    rank = distributed.rank()
    rows = torch.arange(ROWS[rank] * 4, dtype=torch.float32).view(-1, 4).add(100 * rank).requires_grad_()
    together, first = distributed.gather_rows(rows)
    scales = torch.arange(together.numel(), dtype=torch.float32).view_as(together) * (rank + 1)
    (together * scales).sum().backward()
    assert rows.grad is not None
    numbers, _ = distributed.gather_rows(torch.full((1 - rank, 1), 7))  # the second process has none
    low, _ = distributed.gather_rows(rows.detach().bfloat16())
    return {
        "rows": together.detach().numpy(),
        "first": np.array(first),
        "gradient": rows.grad.numpy(),
        "numbers": numbers.numpy(),
        "low": low.float().numpy(),
    }


def shared_numbers() -> dict[str, Any]:
    rank = distributed.rank()
    own = ({"loss": 1.0, "first": 4.0}, 1) if rank == 0 else ({"loss": 5.0, "second": 6.0}, 3)
    return {
        "total": distributed.total(rank + 1.5, CPU),
        "from_first": distributed.from_first(rank + 8.0, CPU),
        "means": distributed.mean_metrics(*own),
        "means of nothing": distributed.mean_metrics({"loss": float(rank)}, 0),
        "rank": rank,
        "size": distributed.world_size(),
    }


def work(folder: Path) -> None:
    rank, results = distributed.rank(), {}
    for name, array in gathered().items():
        results[f"gathered {name}"] = array
    told: dict[str, Any] = {"numbers": shared_numbers()}
    for case, changes in CASES.items():
        weights, told[case] = trained(folder / f"trainer-{case}-{rank}", **changes)
        results |= {f"{case} {name}": value.detach().numpy() for name, value in weights.items()}
    # Batches of one row: there are more processes than rows.
    weights, _ = trained(folder / f"rows-{rank}", batch_tokens=16)
    results |= {f"single {name}": value.detach().numpy() for name, value in weights.items()}
    budgeted = trainer_of(folder / f"budget-{rank}", batch_tokens=144, budget=0.5)
    told["budget"] = [budgeted.fit().step, budgeted.progress.seconds]
    told["said"] = []
    whole = model_from_documents(folder / "m", told["said"])
    try:
        model_from_documents(folder / "killed" / "m", told["said"], kill=True)
    except Killed:
        told["killed"] = sorted(path.name for path in (folder / "killed" / "m").iterdir())
    resumed = model_from_documents(folder / "killed" / "m", told["said"], resume=True)
    told["fingerprints"] = [whole.fingerprint, resumed.fingerprint]
    np.savez(folder / f"{rank}.npz", **results)
    (folder / f"{rank}.json").write_text(json.dumps(told), encoding="utf-8")


def main(folder: Path) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    ctxembed.training.trainer.is_bfloat16_fast = lambda _: False
    with distributed.processes(CPU):
        work(folder)
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


# What is expected of them


@dataclass
class Outcome:
    folder: Path
    arrays: list[dict[str, np.ndarray]]
    told: list[dict[str, Any]]


@pytest.fixture(scope="module")
def both(work_together: Callable[[str], Path]) -> Outcome:
    folder = work_together(__file__)
    arrays = [dict(np.load(folder / f"{rank}.npz")) for rank in (0, 1)]
    return Outcome(folder, arrays, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)])


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctxembed.training.trainer, "is_bfloat16_fast", lambda _: False)


@pytest.mark.parametrize("case", [*CASES, "single"])
def test_two_processes_learn_what_one_does(both: Outcome, tmp_path: Path, case: str) -> None:
    initial = dict(trainer_of(tmp_path / "initial", batch_tokens=144).model.encoder.named_parameters())
    expected, _ = trained(tmp_path / "run", **CASES.get(case, {"batch_tokens": 16}))
    moved = 0.0
    for name, value in expected.items():
        for arrays in both.arrays:
            np.testing.assert_allclose(arrays[f"{case} {name}"], value.detach(), rtol=0, atol=WEIGHT_TOLERANCE)
        moved = max(moved, (value - initial[name]).abs().max().item())
    assert moved > 100 * WEIGHT_TOLERANCE
    assert all(np.array_equal(both.arrays[0][f"{case} {name}"], both.arrays[1][f"{case} {name}"]) for name in expected)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_report_what_one_does(both: Outcome, tmp_path: Path, case: str) -> None:
    _, expected = trained(tmp_path, **CASES[case])
    assert {"mlm", "mlm_accuracy", "gradient_norm", "tokens"} <= expected[0].keys()
    assert all(line["contrastive"] > 0.1 for line in expected[:3])
    for told in both.told:
        assert len(told[case]) == len(expected) == 4
        for found, known in zip(told[case], expected, strict=True):
            assert found == pytest.approx(known, rel=1e-4)


def test_only_the_first_process_writes(both: Outcome) -> None:
    for case in CASES:
        written = both.folder / f"trainer-{case}-0"
        assert sorted(path.name for path in written.iterdir()) == ["metrics.jsonl", "state.safetensors"]
        assert not (both.folder / f"trainer-{case}-1").exists()


def test_all_processes_stop_at_one_step_when_their_time_is_up(both: Outcome) -> None:
    (steps, seconds), other = (told["budget"] for told in both.told)
    assert [steps, seconds] == other
    assert steps > 1
    assert 0.5 <= seconds < 2.0


def test_only_the_first_process_speaks(both: Outcome) -> None:
    first, second = (told["said"] for told in both.told)
    assert first[0] == "the tokenizer learned from 24 documents (a seeded sample of at most 200,000)"
    assert first[1:4] == ["step 1", "step 2", "step 3"]
    assert first.count("step 3") == 3  # killed once, and done again
    assert second == []


def test_two_processes_make_the_model_folder_that_one_makes(both: Outcome, tmp_path: Path) -> None:
    model_from_documents(tmp_path / "m", [])
    files = ["README.md", "config.json", "metrics.jsonl", "model.safetensors", "tokenizer.json", "training.json"]
    ours, theirs = both.folder / "m", tmp_path / "m"
    assert sorted(path.name for path in ours.iterdir()) == files
    assert (ours / "tokenizer.json").read_bytes() == (theirs / "tokenizer.json").read_bytes()
    weights = [load_file(str(folder / "model.safetensors")) for folder in (ours, theirs)]
    assert len(weights[0]) > 10
    for name, value in weights[0].items():  # in float16
        torch.testing.assert_close(value.float(), weights[1][name].float(), rtol=2e-3, atol=2e-5)
    notes = [json.loads((folder / "training.json").read_text(encoding="utf-8")) for folder in (ours, theirs)]
    assert [each.pop("processes") for each in notes] == [2, 1]
    assert notes[0].pop("held_out") == pytest.approx(notes[1].pop("held_out"), rel=1e-3)
    assert notes[0] == notes[1]


def test_a_killed_run_of_two_processes_that_is_resumed_ends_as_an_uninterrupted_one(both: Outcome) -> None:
    assert [told["killed"] for told in both.told] == [[".run", "metrics.jsonl"]] * 2
    whole, resumed = (both.folder / folder / "m" for folder in (".", "killed"))
    assert (whole / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    assert [told["fingerprints"] for told in both.told] == [[load_checkpoint(whole).fingerprint] * 2] * 2
    lines = [
        [{**json.loads(line), "seconds": 0} for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (whole, resumed)
    ]
    assert lines[0] == lines[1] != []


# Numbers and rows that meet


def test_rows_of_all_processes_are_gathered_in_the_order_of_ranks(both: Outcome) -> None:
    expected = np.concatenate([np.arange(count * 4).reshape(-1, 4) + 100 * rank for rank, count in enumerate(ROWS)])
    for arrays, first in zip(both.arrays, (0, 2), strict=True):
        assert np.array_equal(arrays["gathered rows"], expected)
        assert np.array_equal(arrays["gathered low"], expected)
        assert arrays["gathered numbers"].tolist() == [[7]]
        assert arrays["gathered first"] == first


def test_gradients_of_gathered_rows_add_up_in_their_own_process(both: Outcome) -> None:
    whole = 3.0 * np.arange(sum(ROWS) * 4).reshape(-1, 4)  # once from the first process, twice from the second
    for arrays, part in zip(both.arrays, (whole[:2], whole[2:]), strict=True):
        assert np.array_equal(arrays["gathered gradient"], part)


def test_numbers_are_the_same_in_every_process(both: Outcome) -> None:
    for rank, told in enumerate(both.told):
        assert told["numbers"] == {
            "total": 4.0,
            "from_first": 8.0,
            "means": {"loss": 4.0, "first": 4.0, "second": 6.0},
            "means of nothing": {"loss": 0.5},
            "rank": rank,
            "size": 2,
        }


def test_one_process_alone_needs_nobody() -> None:
    rows = torch.ones(2, 3)
    with distributed.processes(CPU):
        assert distributed.gather_rows(rows) == (rows, 0)
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        assert distributed.total(3.0, CPU) == distributed.from_first(3.0, CPU) == 3.0
        assert distributed.mean_metrics({"loss": 1.0}, 0) == {"loss": 1.0}
        distributed.barrier()
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, 2.0])
    distributed.add_gradients([weight])
    assert weight.grad.tolist() == [1.0, 2.0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
