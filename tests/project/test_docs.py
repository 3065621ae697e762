"""The command line explains itself: help and an example for every command, a line in the README, docs that are true."""

from __future__ import annotations

import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from ctxembed_cli.main import ctxembed

ROOT = Path(__file__).parents[2]
README, TRAINING, IMPORT = ROOT / "README.md", ROOT / "docs" / "training.md", ROOT / "docs" / "import.md"
LESSON = ROOT / "docs" / "transformer.md"
COMPARE = ROOT / "docs" / "compare.md"
RESULTS = ROOT / "docs" / "results.md"
MEANING = ROOT / "docs" / "meaning.md"
INDEX = ROOT / "docs" / "index.md"
SEARCH = ROOT / "docs" / "search.md"
ADAPT = ROOT / "docs" / "adapt.md"
RECIPES = ROOT / "data" / "models" / "recipe"
ADAPTED = ROOT / "data" / "results" / "adapt"


def walk(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield a command and every one below it, each with the context that knows its full name."""
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None, f"{context.command_path} {name} is listed but not there"
            yield from walk(below, click.Context(below, info_name=name, parent=context))


TREE = {
    context.command_path: command for command, context in walk(ctxembed, click.Context(ctxembed, info_name="ctxembed"))
}
LEAVES = [path for path, command in TREE.items() if not isinstance(command, click.Group)]


def test_tree_has_the_commands_of_the_main_job() -> None:
    job = {"demo", "embed", "index build", "search", "compare", "attend", "reconstruct", "tokenizer train", "info"}
    objectives = {"mlm", "contrastive", "simcse", "denoise", "senses", "distill", "recipe", "static"}
    assert {f"ctxembed {name}" for name in job | {f"train {name}" for name in objectives}} <= set(LEAVES)


@pytest.mark.parametrize("path", TREE)
def test_command_has_help_of_a_sentence_or_more(path: str) -> None:
    text = TREE[path].help or ""
    first = text.split("\n\n")[0].replace("\b", "").strip()
    assert first.endswith((".", "?")), f"{path}: {first!r}"
    assert len(first.split()) >= 4, f"{path}: {first!r}"


@pytest.mark.parametrize("path", LEAVES)
def test_command_shows_an_example_of_itself(path: str) -> None:
    _, _, example = (TREE[path].help or "").partition("Example:")
    assert f"{path}" in example, f"the help of {path} needs an Example: with {path} in it"


@pytest.mark.parametrize("path", TREE)
def test_every_option_says_what_it_does(path: str) -> None:
    options = [parameter for parameter in TREE[path].params if isinstance(parameter, click.Option)]
    silent = [option.opts[-1] for option in options if not option.help]
    assert not silent, f"{path}: {', '.join(silent)}"


@pytest.mark.parametrize("option", ["--model", "--device", "--seed", "--threads", "--resume", "--format", "--on-long"])
def test_shared_option_reads_the_same_in_every_command(option: str) -> None:
    helps = {
        parameter.help: path
        for path, command in TREE.items()
        for parameter in command.params
        if isinstance(parameter, click.Option) and option in parameter.opts
    }
    # bench takes several models, embed prints in one format only, and a recipe has a seed of its own.
    allowed = {"--model": 2, "--format": 2, "--seed": 2}.get(option, 1)
    assert 1 <= len(helps) <= allowed, helps


def test_readme_names_every_command() -> None:
    text = README.read_text(encoding="utf-8")
    missing = [path for path in LEAVES if f"`{path}`" not in text and f"{path} " not in text]
    assert not missing, f"README.md does not name {', '.join(missing)}"


# What the documents show


def blocks(text: str) -> list[str]:
    """The indented blocks of a page, without their indent."""
    lines = text.splitlines()
    parts = (list(part) for inside, part in itertools.groupby(lines, lambda line: line.startswith("    ")) if inside)
    return ["\n".join(line.removeprefix("    ") for line in part) for part in parts]


def shown_commands(path: Path) -> list[list[str]]:
    """The arguments of every ``ctxembed`` that a page or script shows, without the word itself."""
    text = path.read_text(encoding="utf-8")
    source = "\n".join(blocks(text)) if path.suffix == ".md" else text
    lines = re.sub(r"\\\n\s*", " ", source).splitlines()
    calls = [part for line in lines for part in re.split(r"&&|\||(?<=-m )(?=ctxembed_cli)", line)]
    words = [shlex.split(call, comments=True) for call in calls if re.match(r"\s*(\$ )?ctxembed(_cli)? ", call)]
    return [call[call.index("$") + 2 if call[0] == "$" else 1 :] for call in words]


@pytest.mark.parametrize(
    "path",
    [README, TRAINING, ADAPT, IMPORT, LESSON, COMPARE, RESULTS, MEANING, SEARCH, INDEX, RECIPES / "train.sh"],
    ids=lambda path: path.name,
)
def test_commands_that_are_shown_exist_with_their_options(path: Path) -> None:
    shown = shown_commands(path)
    assert len(shown) >= 3
    for call in shown:
        name = next(name for n in (2, 1) if (name := " ".join(["ctxembed", *call[:n]])) in LEAVES)
        known = {option for parameter in TREE[name].params for option in parameter.opts}
        given = [word for word in call if re.match(r"-{1,2}[a-z]", word)]
        assert set(given) <= known, f"{path.name}: {name} has no {', '.join(set(given) - known)}"


def checked_settings(settings: dict[str, Any]) -> int:
    """Check every section of a recipe or --config against the config it fills; return how many there were."""
    from ctxembed.config import PRESETS, DecoderConfig, EncoderConfig, PoolingConfig, TrainingConfig, from_mapping
    from ctxembed.readers import ReadOptions
    from ctxembed.tokenizer import TokenizerConfig
    from ctxembed.training.objectives.mlm import MaskingConfig
    from ctxembed.training.pairs import PairOptions
    from ctxembed.training.recipes import CONFIGS, ObjectiveTable

    model = {name: value for name, value in settings.pop("model", {}).items() if name not in ("preset", "from")}
    from_mapping(EncoderConfig, {**PRESETS["tiny"], **model, "vocab_size": 9})
    kinds: dict[str, type[Any]] = {"training": TrainingConfig, "tokenizer": TokenizerConfig, "pooling": PoolingConfig}
    kinds |= {"decoder": DecoderConfig, "config": MaskingConfig}
    objectives = settings.pop("objective", [])
    for name, values in settings.items():
        from_mapping(kinds[name], values)
    for entry in objectives:
        table = from_mapping(ObjectiveTable, entry)
        from_mapping(CONFIGS[table.kind], table.config)
        from_mapping(PairOptions if table.kind == "contrastive" else ReadOptions, table.reading)
        assert (table.kind == "distill") == bool(table.teacher)
    return len(settings) + len(objectives)


def test_recipes_that_are_shown_have_known_settings() -> None:
    for page, least in ((TRAINING, 2), (ADAPT, 3)):
        shown = [tomllib.loads(block) for block in toml_blocks(page.read_text(encoding="utf-8"))]
        assert len(shown) >= least
        assert all(checked_settings(settings) for settings in shown)


def toml_blocks(text: str) -> list[str]:
    """The sections of TOML that a page shows, those of one file together."""
    parts = re.findall(r"(?:^(?:    .*)?\n)+", text, flags=re.MULTILINE)
    whole = [re.sub(r"(?m)^    ", "", part).strip() for part in parts]
    return [part for part in whole if part.startswith("[")]


@pytest.mark.parametrize("path", sorted([*RECIPES.glob("*.toml"), *ADAPTED.glob("*.toml")]), ids=lambda path: path.name)
def test_recipe_that_was_run_has_known_settings(path: Path) -> None:
    assert checked_settings(tomllib.loads(path.read_text(encoding="utf-8")))


def test_training_page_is_linked_and_names_every_command_and_kind() -> None:
    from ctxembed.training.recipes import CONFIGS

    text = TRAINING.read_text(encoding="utf-8")
    shown = [f"{path} " for path in LEAVES if path.startswith("ctxembed train ")]
    missing = [part for part in (*shown, *(f"### {kind}: " for kind in CONFIGS)) if part not in text]
    assert not missing
    assert "docs/training.md" in README.read_text(encoding="utf-8")


def test_training_page_gives_the_defaults_that_are_true() -> None:
    from ctxembed.training.recipes import CONFIGS

    text = TRAINING.read_text(encoding="utf-8")
    for kind, config in CONFIGS.items():
        section = text.partition(f"### {kind}: ")[2].partition("\n##")[0]
        for field, default in vars(config()).items():
            row = re.search(rf"(?m)^\| .*`{field}`.* \| (.*?) \| ", section)
            assert row, f"{kind}: {field}"
            said = row[1].split(" ")[0]
            assert said == shown_default(kind, field, default), f"{kind}: {field} = {default}"


def shown_default(kind: str, field: str, default: Any) -> str:
    """Write a default as the page does."""
    if default in (None, ()):
        return "0.1" if (kind, field) == ("simcse", "dropout") else "none"
    return str(default).lower()
