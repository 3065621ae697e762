"""docs/transformer.md is true: its commands run, print what it shows, and the files it names are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .test_scaling import small  # noqa: F401

if TYPE_CHECKING:
    from .conftest import Run

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "transformer.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?m)^    \$ ctxembed (.+)\n((?:    (?!\$).*\n)*)", TEXT)


def test_page_has_a_block_for_each_section() -> None:
    sections = re.split(r"(?m)^## ", TEXT)[1:]
    assert len(sections) == 8
    for section in sections[:-1]:
        assert "    $ ctxembed " in section, section.splitlines()[0]
        assert re.search(r"Files?: `ctxembed/", section), section.splitlines()[0]
    assert sections[-1].startswith("Terms")


@pytest.mark.parametrize(("command", "shown"), BLOCKS, ids=[command for command, _ in BLOCKS])
@pytest.mark.usefixtures("small", "shipped_models")
def test_command_prints_what_the_page_shows(run: Run, command: str, shown: str) -> None:
    arguments = shlex.split(command)
    if arguments[:2] == ["bench", "scaling"]:
        arguments += ["--budget", "1", "--width", "32"]
    lines = [" ".join(line.split()) for line in run(*arguments).stdout.splitlines()]
    for line in shown.splitlines():
        assert any(seen.startswith(" ".join(line.split())) for seen in lines), line


def test_files_and_functions_it_names_are_there() -> None:
    named = set(re.findall(r"`(ctxembed/[\w/]+\.py)`", TEXT))
    assert len(named) >= 12
    assert [name for name in named if not (ROOT / name).is_file()] == []
    code = "".join((ROOT / name).read_text(encoding="utf-8") for name in named)
    functions = ("attention_scores", "scaled_dot_product_attention", "sinusoidal_positions", "rotary_angles", "rotate")
    for function in functions:
        assert f"`{function}`" in TEXT
        assert f"def {function}(" in code
    assert "class MultiHeadAttention" in code


def test_readme_leads_to_it() -> None:
    assert "docs/transformer.md" in (ROOT / "README.md").read_text(encoding="utf-8")
