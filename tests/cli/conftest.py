"""The command line as a user meets it: arguments and stdin go in, an exit code, stdout and stderr come out."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from ctxembed_cli.main import main

from ctxembed.runtime import data_directory


@dataclass(frozen=True)
class Outcome:
    """What one run of ``ctxembed`` left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """stdout as one JSON value."""
        return json.loads(self.stdout)

    @property
    def jsonl(self) -> list[Any]:
        """stdout as a JSON value a line."""
        return [json.loads(line) for line in self.stdout.splitlines()]


Run = Callable[..., Outcome]


def ctxembed(*arguments: str | Path, input: str | bytes = "", code: int = 0) -> Outcome:  # noqa: A002
    """Run the command line inside this process, where it loads torch once for all tests.

    Nothing but SystemExit is caught, as nothing else may leave ``main``: a traceback fails the test.

    Args:
        arguments: Those after the name of the program.
        input: What stands on stdin.
        code: The exit code to insist on.
    """
    data = input.encode() if isinstance(input, str) else input
    stdin, stdout, stderr = (io.TextIOWrapper(io.BytesIO(part), encoding="utf-8") for part in (data, b"", b""))
    exit_code, threads = 0, torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ctxembed", *map(str, arguments)])
        patch.setattr(sys, "stdin", stdin)
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            try:
                main()
            except SystemExit as leaving:
                exit_code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
            finally:
                torch.set_num_threads(threads)  # --threads is for one run
    outcome = Outcome(exit_code, *(_written(stream) for stream in (stdout, stderr)))
    assert outcome.code == code, f"{arguments} left with {outcome.code}: {outcome.stderr}"
    return outcome


def _written(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's model and cache out of the tests; the cache of the tests is shared among them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CTXEMBED_MODEL", raising=False)
        patch.setenv("CTXEMBED_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run("search", "idx/", "a question")`` in an empty folder: relative paths are the test's own."""
    monkeypatch.chdir(tmp_path)
    return ctxembed


@pytest.fixture(scope="session")
def sample() -> Path:
    """The sample corpus that ships."""
    return data_directory() / "corpora" / "sample.jsonl"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """A tiny encoder, hardly trained."""
    folder = tmp_path_factory.mktemp("models") / "model"
    ctxembed("train", "mlm", sample, "-o", folder, "--preset", "tiny", "--max-steps", "30", "--seed", "7")
    return folder


@pytest.fixture(scope="session")
def static(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """Word2Vec vectors of the sample corpus."""
    folder = tmp_path_factory.mktemp("models") / "static"
    ctxembed("train", "static", sample, "-o", folder, "--dimension", "16", "--epochs", "2", "--min-count", "2")
    return folder


ROWS = (
    {"id": "lost", "text": "My card got lost somewhere in town.", "topic": "card", "year": 2021},
    {"id": "fee", "text": "Why was I charged a fee for this transfer?", "topic": "money", "year": 2022},
    {"id": "river", "text": "We sat on the bank of the river all day.", "topic": "outdoors", "year": None},
    {"id": "loan", "text": "The bank lent money to the farmer.", "topic": "money", "year": 2020},
    {"id": "plant", "text": "The plant needs light and water to grow.", "topic": "biology", "year": 2019},
    {"id": "light", "text": "A light wind came from the sea.", "topic": "outdoors", "year": 2018},
)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Six short documents with ids and metadata."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """An index of the six documents, for tests that only read it."""
    folder = tmp_path_factory.mktemp("indexes")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    ctxembed("index", "build", folder / "rows.jsonl", "--text-column", "text", "-o", folder / "idx", "-m", model)
    return folder / "idx"


@pytest.fixture
def flip() -> Callable[[Path], None]:
    """Change one byte in the middle of a file: a disk or a copy that failed."""

    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(bytes(data))

    return change


@pytest.fixture
def shipped_models() -> None:
    """Skip a test as long as the models that are to ship are not in the checkout."""
    missing = [kind for kind in ("encoder", "static") if not (data_directory() / "models" / kind).is_dir()]
    if missing:
        pytest.skip(f"data/models has no {' and no '.join(missing)} yet")
