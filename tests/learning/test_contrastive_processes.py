"""Two processes that share a batch learn what one process with the whole batch learns.

This file is also the program that each of the two processes runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ctxembed.config import EncoderConfig, PoolingConfig
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.encoder import TransformerEncoder
from ctxembed.tokenizer import SubwordTokenizer
from ctxembed.training import distributed
from ctxembed.training.batches import TokenRows
from ctxembed.training.objectives.base import Objective
from ctxembed.training.objectives.contrastive import Contrastive, ContrastiveConfig, SimCSE, SimCSEConfig
from ctxembed.training.pairs import PairCounts, PairRows

# 0 and 3 have one positive and come to different processes; all hard negatives are with the second process.
ANCHORS = [[5, 6], [7, 8, 9], [10], [11, 12], [5, 6, 7, 8]]
POSITIVES = [[20, 21, 22], [23], [24, 25], [20, 21, 22], [26, 27]]
NEGATIVES = [[], [[30, 31], [32]], [], [[33, 34, 35]], []]
CASES: dict[str, list[int]] = {
    "pairs": [0, 1, 2, 3, 4],
    "in pieces": [0, 1, 2, 3, 4],
    "one process without items": [1],
    "views": [0, 1, 2, 3, 4],
}
TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}  # float32 sums in another order


def rows_of(lists: list[list[int]]) -> TokenRows:
    return TokenRows.from_lists([np.array(row, dtype=np.int32) for row in lists])


def objective(case: str) -> Objective[Any]:
    if case == "views":
        return SimCSE(rows_of(POSITIVES), pad_id=0, config=SimCSEConfig(temperature=1.0))
    config = ContrastiveConfig(matryoshka=(8,), piece_tokens=4 if case == "in pieces" else None)
    pairs = PairRows(
        anchors=rows_of(ANCHORS),
        positives=rows_of(POSITIVES),
        negatives=rows_of([row for rows in NEGATIVES for row in rows]),
        negative_starts=np.cumsum([0, *map(len, NEGATIVES)], dtype=np.int64),
        counts=PairCounts(),
    )
    return Contrastive(pairs, pad_id=0, config=config)


def model(case: str) -> Checkpoint:
    # Views are compared in evaluation, where no unit is dropped: each process would drop others.
    config = EncoderConfig(
        vocab_size=40,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        intermediate_size=24,
        max_length=16,
        dropout=0.1 if case == "views" else 0.0,
    )
    torch.manual_seed(1)
    encoder = TransformerEncoder(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return Checkpoint(
        name="tiny",
        encoder=encoder.train(case != "views"),
        tokenizer=cast(SubwordTokenizer, None),
        pooling=PoolingConfig(),
    )


def learned(case: str) -> NDArray[np.float32]:
    """The loss, accuracy and gradient of a batch, from this process's share of it: what a trainer does."""
    items = np.array(CASES[case])[distributed.rank() :: distributed.world_size()]
    own, device = model(case), torch.device("cpu")
    task = objective(case)
    loss = task(own, task.prepare(items, seed=[1]))
    share = loss.count / distributed.total(loss.count, device)
    (loss.value * share).backward()
    parameters = list(own.encoder.parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    distributed.add_gradients(parameters)
    figures = [distributed.total(value * share, device) for value in loss.metrics.values()]
    gradient = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    return np.concatenate((figures, gradient.numpy()), dtype=np.float32)


@pytest.fixture(scope="module")
def of_two_processes(work_together: Callable[[str], Path]) -> list[dict[str, NDArray[np.float32]]]:
    folder = work_together(__file__)
    return [dict(np.load(folder / f"{rank}.npz")) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_does(of_two_processes: list[dict[str, NDArray[np.float32]]], case: str) -> None:
    expected = learned(case)
    assert expected[0] > 0.5
    assert np.abs(expected[2:]).max() > 0.01
    for found in of_two_processes:
        np.testing.assert_allclose(found[case], expected, **TOLERANCE)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with distributed.processes(torch.device("cpu")):
        results = {case: learned(case) for case in CASES}
        np.savez(folder / f"{distributed.rank()}.npz", **results)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
