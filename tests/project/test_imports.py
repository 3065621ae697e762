"""What importing costs, and where public names come from."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import ctxembed

# numpy is needed by the records of ctxembed.types; everything else waits until it is used.
HEAVY = {
    *("torch", "faiss", "gensim", "pandas", "scipy", "sklearn", "transformers", "tokenizers", "pyarrow", "safetensors"),
    *("rich", "tqdm", "zstandard", "sqlite3", "matplotlib", "platformdirs"),
}
# Each module that may be imported to use the library or the command line, but must not be slow to import.
LIGHT = ["ctxembed", "ctxembed_cli.main", "ctxembed.config", "ctxembed.corpus", "ctxembed.text", "ctxembed.tokenizer"]


def loaded_by(statement: str) -> set[str]:
    """Top-level names of the modules that a statement loads in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("module", LIGHT)
def test_import_loads_no_heavy_library(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert module.partition(".")[0] in loaded
    assert loaded & HEAVY == set()


def test_import_of_the_package_does_not_load_numpy() -> None:
    assert loaded_by("import ctxembed") & {"numpy", "regex", "click"} == set()


def test_first_use_of_a_name_loads_its_home() -> None:
    assert "numpy" in loaded_by("import ctxembed; ctxembed.Document")


def test_help_of_the_command_line_loads_no_heavy_library() -> None:
    loaded = loaded_by("from ctxembed_cli.main import ctxembed; ctxembed.main(['--help'], standalone_mode=False)")
    assert "click" in loaded
    assert loaded & HEAVY == set()


# Public names


def homes_in_source() -> dict[str, str]:
    """Each name that the TYPE_CHECKING block of ctxembed/__init__.py imports, with the module it is taken from."""
    tree = ast.parse(Path(ctxembed.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {
        alias.asname or alias.name: node.module or ""
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_type_checkers_and_readers_see_the_same_homes() -> None:
    assert ctxembed._HOME_OF
    assert homes_in_source() == ctxembed._HOME_OF


def test_all_names_are_those_with_a_home_and_the_version() -> None:
    assert sorted(ctxembed.__all__) == sorted([*ctxembed._HOME_OF, "__version__"])
    assert dir(ctxembed) == ctxembed.__all__


@pytest.mark.parametrize("name", sorted(ctxembed._HOME_OF))
def test_public_name_is_what_its_home_defines(name: str) -> None:
    home = importlib.import_module(ctxembed._HOME_OF[name])
    assert getattr(ctxembed, name) is getattr(home, name)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ctxembed' has no attribute 'Embeder'"):
        ctxembed.Embeder  # noqa: B018


def test_star_import_gives_every_public_name() -> None:
    assert set(ctxembed.__all__) <= set(
        subprocess.run(
            [sys.executable, "-c", "from ctxembed import *; print(*dir())"],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout.split()
    )
