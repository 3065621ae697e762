"""The command line explains itself: help and an example for every command, and a line in the README."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from ctxembed_cli.main import ctxembed

README = Path(__file__).parents[2] / "README.md"


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
    job = {"demo", "embed", "index build", "search", "compare", "train mlm", "train static", "tokenizer train", "info"}
    assert {f"ctxembed {name}" for name in job} <= set(LEAVES)


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
    # bench takes several models, and embed prints in one format only.
    allowed = {"--model": 2, "--format": 2}.get(option, 1)
    assert 1 <= len(helps) <= allowed, helps


def test_readme_names_every_command() -> None:
    text = README.read_text(encoding="utf-8")
    missing = [path for path in LEAVES if f"`{path}`" not in text and f"{path} " not in text]
    assert not missing, f"README.md does not name {', '.join(missing)}"
