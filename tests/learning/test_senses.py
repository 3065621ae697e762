"""Labelled uses teach a tiny model to part the senses of words; two processes learn what one does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ctxembed.config import EncoderConfig, PoolingConfig
from ctxembed.model.checkpoint import Checkpoint
from ctxembed.model.encoder import TransformerEncoder
from ctxembed.runtime import data_directory
from ctxembed.tokenizer import SubwordTokenizer, TokenizerConfig
from ctxembed.training import distributed
from ctxembed.training.batches import TokenRows
from ctxembed.training.objectives.senses import SenseConfig, Senses, sense_contrast
from ctxembed.training.sense_rows import SenseCounts, SenseRows, read_senses

NUM_WORDS = 12
TOLERANCE = {"rtol": 1e-3, "atol": 1e-5}


def tiny(tokenizer: SubwordTokenizer, *, vocab_size: int, dropout: float = 0.0) -> Checkpoint:
    shape = EncoderConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        intermediate_size=64,
        max_length=64,
        dropout=dropout,
    )
    torch.manual_seed(5)
    return Checkpoint(name="tiny", encoder=TransformerEncoder(shape), tokenizer=tokenizer, pooling=PoolingConfig())


def train(model: Checkpoint, objective: Senses, *, steps: int, items: int) -> None:
    optimiser = torch.optim.AdamW(model.encoder.parameters(), lr=5e-3)
    generator = np.random.default_rng(4)
    model.encoder.train()
    for step in range(steps):
        chosen = generator.choice(len(objective.groups), min(items, len(objective.groups)), replace=False)
        loss = objective(model, objective.prepare(chosen, seed=[1, step]))
        optimiser.zero_grad()
        loss.value.backward()
        optimiser.step()
    model.encoder.eval()


def vectors(model: Checkpoint, rows: SenseRows) -> tuple[Tensor, Tensor]:
    """The vector of every use and of every gloss, each text encoded alone."""
    with torch.no_grad():
        sentences = [
            model.encoder(torch.from_numpy(rows.sentences.row(row).astype(np.int64))[None]).last[0] for row in rows.rows
        ]
        uses = [
            hidden[start:end].mean(dim=0) for hidden, start, end in zip(sentences, rows.starts, rows.ends, strict=True)
        ]
        glosses = [
            model.encoder(torch.from_numpy(rows.glosses.row(row).astype(np.int64))[None]).last[0].mean(dim=0)
            for row in range(len(rows.glosses))
        ]
    return torch.stack(uses), torch.stack(glosses) if glosses else torch.zeros(0, 32)


def nearest_is_of_the_sense(model: Checkpoint, rows: SenseRows) -> float:
    """The share of uses whose nearest use of the same word, of all there are, has their sense."""
    uses, _ = vectors(model, rows)
    _, _, right = sense_contrast(uses, torch.from_numpy(rows.lemmas), torch.from_numpy(rows.senses), temperature=1.0)
    assert len(right) == len(rows.senses)
    return right.mean().item()


def own_gloss_is_nearest(model: Checkpoint, rows: SenseRows) -> float:
    uses, glosses = vectors(model, rows)
    scores = functional.normalize(uses, dim=1) @ functional.normalize(glosses, dim=1).T
    return (scores.argmax(dim=1).numpy() == rows.sense_glosses[rows.senses]).mean().item()


def test_the_two_senses_of_ambiguous_words_part(tmp_path: Path) -> None:
    lines = (
        (data_directory() / "benchmarks" / "word_in_context" / "uses.jsonl").read_text(encoding="utf-8").splitlines()
    )
    uses = [json.loads(line) for line in lines]
    chosen = list(dict.fromkeys(use["word"] for use in uses))[:NUM_WORDS]
    uses = [{**use, "label": use["sense"]} for use in uses if use["word"] in chosen]
    path = tmp_path / "uses.jsonl"
    path.write_text("".join(json.dumps(use) + "\n" for use in uses), encoding="utf-8")
    tokenizer = SubwordTokenizer.train([use["text"] for use in uses], config=TokenizerConfig(vocab_size=600))
    rows = read_senses(path, tokenizer, max_length=64)
    assert rows.counts.uses == len(uses) == 14 * NUM_WORDS
    model = tiny(tokenizer, vocab_size=len(tokenizer))
    before = nearest_is_of_the_sense(model, rows)
    train(model, Senses(rows, model=model, config=SenseConfig(group_size=14)), steps=80, items=6)
    after = nearest_is_of_the_sense(model, rows)
    assert before < 0.65  # 6 of the 13 others are of the sense: .46 by chance
    assert after > 0.9


def test_uses_find_the_gloss_of_their_sense(tmp_path: Path) -> None:
    contexts = {"money": "lent coins paid debts", "river": "water fish boats reeds", "row": "lamps switches keys seats"}
    entries = [
        {
            "lemma": word,
            "synset": f"{word}-{sense}",
            "gloss": f"{hint} with {others.split()[0]}" if word == "bank" else f"{hint} near {others.split()[1]}",
            "examples": [
                f"the {word} and its {other} were {look}" for other in others.split() for look in ("old", "cold")
            ],
        }
        for word, hint in (("bank", "a place"), ("shore", "an edge"))
        for sense, others in contexts.items()
    ]
    path = tmp_path / "synsets.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    texts = [text for entry in entries for text in (str(entry["gloss"]), *cast(list[str], entry["examples"]))]
    tokenizer = SubwordTokenizer.train(texts, config=TokenizerConfig(vocab_size=200, min_frequency=1))
    rows = read_senses(path, tokenizer, max_length=32)
    assert (rows.counts.uses, rows.counts.glosses) == (48, 6)
    model = tiny(tokenizer, vocab_size=len(tokenizer))
    before = own_gloss_is_nearest(model, rows)
    train(model, Senses(rows, model=model), steps=60, items=4)
    assert before < 0.6  # one in six by chance
    assert own_gloss_is_nearest(model, rows) > 0.9
    assert nearest_is_of_the_sense(model, rows) > 0.9


# Two processes


def random_rows(lengths: list[int]) -> TokenRows:
    generator = np.random.default_rng(7)
    return TokenRows.from_lists([generator.integers(5, 40, length).astype(np.int32) for length in lengths])


def shared_rows() -> SenseRows:
    """Six lemmas of two words each with two senses: 0 to 3 have glosses, some the same; 4 and 5 have none."""
    lemmas = np.repeat(np.arange(6), 5)
    senses = 2 * lemmas + np.tile([0, 1, 0, 1, 1], 6)
    return SenseRows(
        sentences=random_rows([5 + number % 6 for number in range(20)]),
        rows=np.arange(30) % 20,
        starts=1 + np.arange(30) % 2,
        ends=3 + np.arange(30) % 2,
        lemmas=lemmas,
        senses=senses,
        sense_lemmas=np.repeat(np.arange(6), 2),
        sense_glosses=np.array([0, 1, 1, 2, 3, 0, 4, 5, -1, -1, -1, -1]),
        lemma_words=np.array([0, 1, 0, 3, 4, 5]),
        glosses=random_rows([6, 3, 5, 8, 4, 7]),
        counts=SenseCounts(),
    )


CASES = {
    "glosses in both": [0, 1, 2, 3, 4, 5],
    "glosses in the first only": [0, 4, 2, 5],
    "no glosses": [4, 5],
}


def learned(items: list[int]) -> NDArray[np.float32]:
    """The loss and gradient of a batch, from this process's share of it: what a trainer does."""
    model, device = tiny(cast(SubwordTokenizer, FakeTokenizer()), vocab_size=40), torch.device("cpu")
    objective = Senses(shared_rows(), model=model)
    own = np.array(items)[distributed.rank() :: distributed.world_size()]
    loss = objective(model, objective.prepare(own, seed=[1]))
    share = loss.count / distributed.total(loss.count, device)
    (loss.value * share).backward()
    parameters = list(model.encoder.parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    distributed.add_gradients(parameters)
    value = distributed.total(loss.value.item() * share, device)
    gradient = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
    return np.concatenate(([value], gradient.numpy()), dtype=np.float32)


class FakeTokenizer:
    pad_id = 0


@pytest.fixture(scope="module")
def of_two_processes(work_together: Callable[[str], Path]) -> list[dict[str, NDArray[np.float32]]]:
    folder = work_together(__file__)
    return [dict(np.load(folder / f"{rank}.npz")) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_does(of_two_processes: list[dict[str, NDArray[np.float32]]], case: str) -> None:
    expected = learned(CASES[case])
    assert expected[0] > 0.5
    assert np.abs(expected[1:]).max() > 0.01
    for found in of_two_processes:
        np.testing.assert_allclose(found[case], expected, **TOLERANCE)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with distributed.processes(torch.device("cpu")):
        results = {case: learned(items) for case, items in CASES.items()}
        np.savez(folder / f"{distributed.rank()}.npz", **results)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
