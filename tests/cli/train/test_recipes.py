"""``ctxembed train recipe``: several objectives at once, as a file says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .conftest import is_picture, metrics, training

if TYPE_CHECKING:
    from ..conftest import Run


MIXTURE = """
[model]
preset = "tiny"
[tokenizer]
vocab_size = 150
[training]
max_steps = 4
batch_tokens = 512
max_length = 32
[[objective]]
kind = "mlm"
inputs = ["../corpus.txt"]
config = { whole_words = true }
[[objective]]
kind = "contrastive"
inputs = ["$PAIRS/pairs.jsonl"]
share = 3
weight = 0.5
"""


@pytest.fixture
def recipe(corpus: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mixture of two objectives, in a folder of its own."""
    monkeypatch.setenv("PAIRS", str(pairs.parent))
    path = tmp_path / "recipes" / "mixture.toml"
    path.parent.mkdir()
    path.write_text(MIXTURE)
    return path


def test_recipe_mixes_objectives_by_share_and_weight(run: Run, recipe: Path) -> None:
    outcome = run("train", "recipe", recipe, "-o", "out", "--seed", "5")
    assert "36 documents\n36 pairs\n" in outcome.stderr
    lines = metrics("out")
    assert len(lines) == 4
    assert all(line["loss"] == pytest.approx(line["mlm"] + 0.5 * line["contrastive"], rel=1e-4) for line in lines)
    record = training("out")
    assert [(each["kind"], each["share"], each["weight"]) for each in record["objectives"]] == [
        ("mlm", 1, 1),
        ("contrastive", 3, 0.5),
    ]
    assert (record["seed"], record["inputs"]) == (5, ["corpus.txt", "pairs.jsonl"])
    assert record["objectives"][0]["whole_words"]
    assert is_picture("out")


def test_recipe_keeps_to_a_budget_and_says_what_it_allows(run: Run, recipe: Path) -> None:
    outcome = run("train", "recipe", recipe, "-o", "out", "--budget", "4s")
    forecast = re.search(r"(?m)^forecast: ([\d,]+) steps and ([\d,]+) tokens in 4 s$", outcome.stderr)
    truth = re.search(r"(?m)^forecast (.*) steps, (.*) tokens; done (.*) steps, (.*) tokens in 4 s$", outcome.stderr)
    assert forecast
    assert truth
    assert forecast.groups() == truth.groups()[:2]
    last = metrics("out")[-1]
    assert 4 <= last["seconds"] < 4.6
    assert truth.groups()[2:] == (f"{last['step']:,}", f"{last['tokens']:,}")
    promised, done = int(forecast[1].replace(",", "")), last["step"]
    assert 0.5 * done < promised < 2 * done


def test_steps_of_the_command_line_win_over_a_budget_of_the_recipe(run: Run, recipe: Path) -> None:
    recipe.write_text(MIXTURE.replace("max_steps = 4", "budget = 3600"))
    run("train", "recipe", recipe, "-o", "out", "--max-steps", "2")
    assert training("out")["steps"] == 2


def test_dry_run_checks_a_recipe_and_writes_nothing(run: Run, recipe: Path) -> None:
    outcome = run("train", "recipe", recipe, "-o", "out", "--dry-run")
    assert outcome.stderr == f"{recipe} is in order: 2 objectives on corpus.txt, pairs.jsonl\n"
    assert not Path("out").exists()


def test_teacher_of_a_recipe_is_looked_for_beside_it(
    run: Run, teacher: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER", str(teacher))
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "distill.toml").write_text(
        f'[model]\nfrom = "{model}"\n[training]\nmax_steps = 2\nmax_length = 32\n'
        '[[objective]]\nkind = "distill"\nteacher = { sentences = ["../sentences"], words = ["../words"] }\n'
        '[[objective]]\nkind = "distill"\ninputs = ["../corpus.txt"]\n'
        'teacher = { word_model = "$TEACHER", cache = "kept" }\n'
    )
    run("train", "recipe", "recipes/distill.toml", "-o", "out")
    assert sorted(path.name for path in (folder / "kept").iterdir()) == ["axes", "words"]
    assert training("out")["teachers"] == [
        "static, 36 sentence vectors",
        "static, 288 word vectors",
        "static, word vectors",
    ]


RECIPES = {
    "unknown section": ("[modell]\n", r"mixture\.toml: unknown section 'modell': known are model, tokenizer"),
    "no section": ("training = 3\n", r"mixture\.toml: training = 3 is no section: write \[training\]"),
    "one objective": ('[objective]\nkind = "mlm"\n', r"is no section: write \[\[objective\]\]"),
    "no objective": ('[model]\npreset = "tiny"\n', r"a recipe needs at least one \[\[objective\]\]"),
    "unknown kind": ('[[objective]]\nkind = "glove"\n', "kind = 'glove': must be one of mlm, contrastive, simcse"),
    "no kind": ('[[objective]]\ninputs = ["../corpus.txt"]\n', "ObjectiveTable needs kind: add it"),
    "no inputs": ('[[objective]]\nkind = "mlm"\n', "mlm needs inputs: name files to learn from"),
    "missing inputs": ('[[objective]]\nkind = "mlm"\ninputs = ["corpus.txt"]\n', r"corpus\.txt does not exist"),
    "misspelt setting": (
        '[[objective]]\nkind = "mlm"\ninputs = ["../corpus.txt"]\nwieght = 2\n',
        "unknown setting 'wieght' for ObjectiveTable: did you mean 'weight'",
    ),
    "weight": ('[[objective]]\nkind = "mlm"\nweight = 0\n', "share and weight of mlm must be above 0"),
    "teacher of none": (
        '[[objective]]\nkind = "mlm"\ninputs = ["../corpus.txt"]\nteacher = { cache = "x" }\n',
        "teacher does nothing for mlm: leave it out",
    ),
    "sample of pairs": (
        '[[objective]]\nkind = "contrastive"\ninputs = ["../pairs.jsonl"]\nmax_documents = 3\n',
        "max_documents does nothing for contrastive",
    ),
    "teacher that is no list": (
        '[[objective]]\nkind = "distill"\nteacher = { words = "words" }\n',
        "words = 'words' of the teacher: write a list of folders",
    ),
    "unknown teacher": (
        '[[objective]]\nkind = "distill"\nteacher = { wrods = ["words"] }\n',
        "unknown setting 'wrods' of the teacher: known are cache, layer",
    ),
    "new shape of an old model": (
        '[model]\nfrom = "default"\nnum_layers = 2\n[[objective]]\nkind = "mlm"\ninputs = ["../corpus.txt"]\n',
        "num_layers cannot be changed in a model to go on from: leave it out",
    ),
}


@pytest.mark.parametrize(("content", "message"), RECIPES.values(), ids=list(RECIPES))
def test_wrong_recipe_is_refused_with_the_reason(run: Run, recipe: Path, content: str, message: str) -> None:
    recipe.write_text(content)
    outcome = run("train", "recipe", recipe, "-o", "out", code=1)
    assert re.fullmatch(f"error: .*{message}.*\n", outcome.stderr)
    assert not Path("out").exists()
