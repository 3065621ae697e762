"""A recipe from its file to a model: every kind of objective in one mixture, and a resumed run that is held to it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxembed.errors import InvalidInputError
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint
from ctxembed.training.plans import Preparation
from ctxembed.training.recipes import Recipe, Surroundings, read_recipe
from ctxembed.training.run import Run, train
from ctxembed.training.start import WordTable
from ctxembed.training.targets import VectorTargets
from ctxembed.types import Document
from ctxembed.vector_writer import VectorWriter
from ctxembed.vectors import Row, VectorFolder

TEXTS = [f"the {thing} near the old {place}" for thing in ("bass", "crane", "cars") for place in ("bank", "river")]
RECIPE = """
[model]
preset = "tiny"
hidden_size = 16
dropout = 0.1
num_layers = 1
intermediate_size = 24
max_length = 24
init_embeddings = "."
[tokenizer]
vocab_size = 90
min_frequency = 1
[decoder]
num_layers = 1
[training]
max_steps = 4
batch_tokens = 480
max_length = 24
save_every = 2
eval_every = 4
[[objective]]
kind = "mlm"
inputs = ["a.txt"]
config = { whole_words = true }
[[objective]]
kind = "mlm"
inputs = ["b.txt"]
share = 2.0
weight = 0.5
max_documents = 4
[[objective]]
kind = "simcse"
inputs = ["a.txt"]
[[objective]]
kind = "denoise"
inputs = ["a.txt"]
[[objective]]
kind = "contrastive"
inputs = ["pairs.jsonl"]
config = { matryoshka = [8] }
[[objective]]
kind = "distill"
weight = 2.0
"""
KINDS = ["mlm", "mlm", "simcse", "denoise", "contrastive", "distill"]


class Killed(Exception):
    """Stands for what ends a process."""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n".join(TEXTS[::-1]) + "\n", encoding="utf-8")
    pairs = [{"anchor": one, "positive": other} for one, other in itertools.pairwise(TEXTS)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    rows = [Row(str(number), text) for number, text in enumerate(TEXTS)]
    with VectorWriter(tmp_path / "teacher", settings={"fingerprint": "random"}, dimension=8) as writer:
        vectors = np.random.default_rng(1).standard_normal((len(rows), 8)).astype(np.float32)
        writer.append(rows, vectors, documents=[Document(row.id, row.text) for row in rows])
    return tmp_path


def recipe(base: Path, text: str = RECIPE) -> Recipe:
    def teacher_plan(*_: Any) -> Callable[[Preparation], VectorTargets]:
        folder = VectorFolder.open(base / "teacher")
        return lambda given: VectorTargets(given.model.tokenizer, sentences=[folder], max_length=given.max_length)

    def word_table(_: str) -> WordTable:
        vectors = np.random.default_rng(2).standard_normal((3, 12)).astype(np.float32)
        return WordTable(words=["bank", "river", "crane"], vectors=vectors, name="static")

    file = base / "run.toml"
    file.write_text(text, encoding="utf-8")
    around = Surroundings(base, teacher_plan=teacher_plan, word_table=word_table)
    return read_recipe(file, overrides={"seed": 6}, around=around)


def trained(checked: Recipe, folder: Path, **options: Any) -> Checkpoint:
    return train(checked.start, checked.plans, run=Run(folder=folder, training=checked.training, **options))


def killed(metrics: Mapping[str, float]) -> None:
    if metrics["step"] == 3:
        raise Killed


def test_a_mixture_of_everything_learns_resumes_and_says_what_it_learned(base: Path) -> None:
    told: list[str] = []
    whole = trained(recipe(base), base / "whole" / "m", tell=told.append)
    with pytest.raises(Killed):
        trained(recipe(base), base / "parts" / "m", report=killed)
    parts = trained(recipe(base), base / "parts" / "m", resume=True)
    assert whole.fingerprint == parts.fingerprint == load_checkpoint(base / "whole" / "m").fingerprint
    assert whole.decoder is not None
    assert whole.decoder.config.num_layers == 1
    notes = json.loads((base / "whole" / "m" / "training.json").read_text(encoding="utf-8"))
    assert notes == json.loads((base / "parts" / "m" / "training.json").read_text(encoding="utf-8"))
    assert [each["kind"] for each in notes["objectives"]] == KINDS
    assert [each["share"] for each in notes["objectives"]] == [1.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    assert notes["objectives"][1]["items"] == notes["objectives"][1]["max_documents"] == 4
    assert notes["seed"] == 6
    assert notes["initial_embeddings"] == "static"
    lines = (base / "whole" / "m" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    known = set(json.loads(lines[0]))
    assert {"mlm_1", "mlm_2", "simcse", "denoise", "contrastive", "distill_sentence"} <= known
    assert any("tokenizer learned from 6 documents" in line for line in told)
    assert "5 pairs" in told
    assert any("embedding layer begins with static" in line for line in told)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_documents = 4", "max_documents = 3", "objectives.2.max_documents = 4, now it is 3"),
        ('["b.txt"]', '["a.txt"]', "objectives.2.inputs.1 = 'b.txt', now it is 'a.txt'"),
        ("whole_words = true", "whole_words = false", "objectives.1.whole_words = True, now it is False"),
        ("matryoshka = [8]", "matryoshka = [4]", "objectives.5.matryoshka.1 = 8, now it is 4"),
        ("share = 2.0", "share = 3.0", "objectives.2.share = 2.0, now it is 3.0"),
        ("[decoder]\nnum_layers = 1", "[decoder]\nnum_layers = 2", "decoder.num_layers = 1, now it is 2"),
    ],
)
def test_a_run_resumed_with_a_changed_recipe_is_refused(base: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(Killed):
        trained(recipe(base), base / "m", report=killed)
    with pytest.raises(InvalidInputError, match=f"the run was started with {message}"):
        trained(recipe(base, RECIPE.replace(old, new)), base / "m", resume=True)


def test_a_trained_model_is_gone_on_from_with_its_decoder(base: Path) -> None:
    first = trained(recipe(base), base / "m")
    text = '[model]\nfrom = "m"\n' + RECIPE[RECIPE.index("[training]") :]
    further = trained(recipe(base, text), base / "further")
    assert further.fingerprint != first.fingerprint
    assert further.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert further.decoder is not None
