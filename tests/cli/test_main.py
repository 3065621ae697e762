"""What all commands share: help, exit codes, one line for each mistake, interruption and a closed pipe."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Run

HEAVY = ("torch", "faiss", "gensim", "pandas", "pyarrow", "scipy", "sklearn", "tokenizers", "transformers")

PRINT_HEAVY_MODULES_AFTER_HELP = f"""
import sys
import click
from ctxembed_cli.main import ctxembed
def helps(command, path):
    context = click.Context(command, info_name=path)
    assert "Usage:" in command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            helps(command.get_command(context, name), path + " " + name)
helps(ctxembed, "ctxembed")
print([name for name in {HEAVY!r} if name in sys.modules])
"""

# Sends itself the signal as soon as the first checkpoint is on disk, so that no test has to guess a moment.
TRAIN_UNTIL_FIRST_CHECKPOINT = """
import os, signal
from ctxembed.training.trainer import Trainer
from ctxembed_cli.main import main
save = Trainer.save
def save_and_die(self):
    save(self)
    os.kill(os.getpid(), signal.{signal})
Trainer.save = save_and_die
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


def python(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_help_of_every_command_loads_no_heavy_library() -> None:
    done = python(PRINT_HEAVY_MODULES_AFTER_HELP)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_version_is_that_of_the_package(run: Run) -> None:
    from ctxembed import __version__

    assert run("--version").stdout == f"ctxembed, version {__version__}\n"


@pytest.mark.parametrize("group", [(), ("tokenizer",), ("train",), ("index",), ("bench",)])
def test_group_without_command_lists_its_commands_as_a_usage_error(run: Run, group: tuple[str, ...]) -> None:
    outcome = run(*group, code=2)
    assert "Commands:" in outcome.stderr
    assert outcome.stdout == ""


MISTAKES = {
    "missing input": ("embed nowhere.txt -o out -m {model}", r"nowhere\.txt does not exist: check the spelling"),
    "missing model": ("embed rows.jsonl -o out -m nowhere", "nowhere does not exist: check the spelling"),
    "missing index": ("search nowhere bank -m {model}", "nowhere does not exist: check the spelling"),
    "missing folder": ("info nowhere", "nowhere does not exist: check the spelling"),
    "missing tokenizer": ("tokenizer report nowhere rows.jsonl", "nowhere does not exist: check the spelling"),
    "missing corpus": ("train mlm nowhere.txt -o out", r"nowhere\.txt does not exist: check the spelling"),
    "missing benchmark": ("bench words --data nowhere -m {model}", "nowhere does not exist: check the spelling"),
    "malformed row": ("embed bad.jsonl -o out -m {model}", r"bad\.jsonl:2: not a JSON object"),
    "malformed row of a table": (
        "index build bad.csv -o out -m {model}",
        r"bad\.csv:3: 3 fields where the header has 2",
    ),
    "missing column": ("embed rows.jsonl -o out -m {model} --text-column body", r"rows\.jsonl:1: no column 'body'"),
    "unsupported file": ("embed notes.docx -o out -m {model}", r"notes\.docx is of no supported kind: use \.txt"),
    "input given twice": ("embed rows.jsonl rows.jsonl -o out -m {model}", r"rows\.jsonl is given 2 times"),
    "not UTF-8": ("embed latin.txt -o out -m {model}", r"latin\.txt:1: not UTF-8 .*--encoding-errors replace"),
    "output is a file": ("embed rows.jsonl -o notes.docx -m {model}", r"notes\.docx is a file, need a folder"),
    "unknown layer": (
        "embed rows.jsonl -o out -m {model} --unit word --layer 9",
        "layer = 9: model has layers 0 .* to 2",
    ),
    "layer of sentences": ("embed rows.jsonl -o out -m {model} --layer 1", "layer = 1: sentence vectors have no layer"),
    "tokens of static vectors": (
        "embed rows.jsonl -o out -m {static} --unit token",
        "static has no tokens: use --unit word",
    ),
    "unknown device": ("embed rows.jsonl -o out -m {model} --device abacus", "device 'abacus' is unknown"),
    "empty query": ("search {index} ' ' -m {model}", "the query is empty: give at least one word"),
    "duplicate ids": ("index build twice.jsonl -o out -m {model}", "id 'a' occurs twice: leave one out"),
    "ids without array": (
        "index build rows.jsonl -o out -m {model} --ids rows.jsonl",
        r"--ids and --texts belong to a \.npy",
    ),
    "unmarked use": (
        "compare 'the bank lent money' -m {model} --static {static}",
        "0 words are marked in 'the bank lent",
    ),
    "absent word": (
        "compare --word river 'the bank' -m {model} --no-static",
        "the word 'river' does not occur in 'the bank'",
    ),
    "no static vectors there": ("compare 'a [bank]' -m {model} --static nowhere", "nowhere does not exist"),
    "nothing to learn from": ("tokenizer train empty.txt -o out", "the corpus holds no word to train on"),
    "vocabulary too small": ("tokenizer train rows.jsonl -o out --vocab-size 9", "vocab_size = 9 has no room"),
    "learning rate": ("train mlm rows.jsonl -o out --learning-rate -1", "learning_rate = -1.0: must be above 0"),
    "model in the way": ("train mlm rows.jsonl -o {model}", "model already holds a model: choose another output"),
    "nothing to resume": ("train mlm rows.jsonl -o out --resume", "out holds no run to resume: leave out --resume"),
    "missing start": ("train mlm rows.jsonl --from nowhere -o out", "nowhere does not exist: check the spelling"),
    "no teacher": ("train distill --from {model} -o out", r"distill needs a teacher: .*\(--sentences, --words\)"),
    "too few words": ("train static rows.jsonl -o out --min-count 99", "no word occurs min_count = 99 times"),
    "no data to score": ("bench sentences -m {model}", "no set of sentence pairs ships .* --data"),
}


@pytest.fixture
def arguments(
    request: pytest.FixtureRequest, tmp_path: Path, rows: Path, model: Path, static: Path, index: Path
) -> list[str]:
    """The arguments of a mistake, with the files it speaks of in place."""
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    (tmp_path / "bad.csv").write_text("id,text\n1,fine\n2,one,two\n")
    (tmp_path / "twice.jsonl").write_text('{"id": "a", "text": "one"}\n{"id": "a", "text": "two"}\n')
    (tmp_path / "latin.txt").write_bytes("café\n".encode("latin-1"))
    (tmp_path / "empty.txt").touch()
    (tmp_path / "notes.docx").touch()
    return [part.format(model=model, static=static, index=index) for part in shlex.split(request.param)]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=list(MISTAKES), indirect=["arguments"])
def test_mistake_is_answered_by_one_line_and_exit_code_1(run: Run, arguments: list[str], message: str) -> None:
    outcome = run(*arguments, code=1)
    *before, line = outcome.stderr.splitlines()
    assert re.search(message, line)
    assert [each.startswith("error: ") for each in (*before, line)] == [False] * len(before) + [True]
    assert outcome.stdout == ""


USAGE_ERRORS = {
    "unknown command": ("serch idx/ bank", "No such command 'serch'"),
    "unknown option": ("search idx/ bank --tpo 5", "No such option '--tpo'"),
    "missing argument": ("search", "Missing argument 'INDEX'"),
    "missing output": ("index build rows.txt", "Missing option '-o'"),
    "no place for vectors": ("embed rows.txt", "either -o FOLDER, -o FILE.parquet or --format jsonl"),
    "two places for vectors": ("embed rows.txt -o out --format jsonl", "say where the vectors go"),
    "zero hits": ("search idx/ bank -k 0", "0 is not in the range x>=1"),
    "unknown format": ("search idx/ bank --format xml", "'xml' is not one of 'table', 'json', 'jsonl', 'csv'"),
    "unknown unit": ("embed rows.txt -o out --unit paragraph", "'paragraph' is not one of 'sentence', 'word'"),
    "unknown preset": ("train mlm rows.txt -o out --preset huge", "'huge' is not one of 'tiny', 'mini'"),
    "no step": ("train mlm rows.txt -o out --max-steps 0", "0 is not in the range x>=1"),
    "negative seed": ("train mlm rows.txt -o out --seed -1", "-1 is not in the range 0<=x<=4294967295"),
    "no time": ("train mlm rows.txt -o out --budget soon", "'soon' is no time: write 90s, 10m, 2h or 1d"),
    "missing settings file": ("train mlm rows.txt -o out --config nowhere.toml", "File 'nowhere.toml' does not exist"),
}


@pytest.mark.parametrize(("arguments", "message"), USAGE_ERRORS.values(), ids=list(USAGE_ERRORS))
def test_wrong_usage_is_answered_with_the_usage_and_exit_code_2(run: Run, arguments: str, message: str) -> None:
    outcome = run(*shlex.split(arguments), code=2)
    assert outcome.stderr.startswith("Usage: ctxembed ")
    assert message in outcome.stderr.splitlines()[-1]
    assert outcome.stdout == ""


def test_text_that_stdout_cannot_hold_is_a_mistake_not_a_traceback(run: Run, model: Path) -> None:
    use = os.fsdecode(b"the [b\xffnk] of the river")  # what Python makes of an argument that is not UTF-8
    outcome = run("compare", use, "-m", model, "--no-static", "--nearest", "0", "--format", "json", code=1)
    assert outcome.stderr == r"error: '\udcff' cannot be printed as utf-8: use UTF-8, in and out" + "\n"


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [("SIGINT", 130, "\ninterrupted: --resume continues what can be continued\n"), ("SIGKILL", -signal.SIGKILL, "")],
)
def test_training_that_was_ended_by_a_signal_resumes(
    run: Run, tmp_path: Path, name: str, code: int, message: str
) -> None:
    (tmp_path / "corpus.txt").write_text("".join(f"The bank of town {n} lent money.\n" for n in range(40)))
    training = ["train", "mlm", "corpus.txt", "-o", "model", "--preset", "tiny", "--vocab-size", "150"]
    training += ["--max-steps", "6", "--checkpoint-every", "4", "--batch-tokens", "256", "--max-length", "16"]
    ended = python(TRAIN_UNTIL_FIRST_CHECKPOINT.format(signal=name), *training)
    assert (ended.returncode, ended.stdout) == (code, "")
    prepared = r"the tokenizer learned from 40 documents .*\n40 documents\n"
    assert re.fullmatch(prepared + re.escape(message), ended.stderr)
    assert "its training is unfinished: --resume it" in run("info", "model", code=3).stderr
    assert "holds an unfinished run: --resume it, or delete" in run(*training, code=1).stderr
    run(*training, "--resume")
    assert json.loads((tmp_path / "model" / "training.json").read_text())["steps"] == 6
    assert not (tmp_path / "model" / ".run").exists()


def test_closed_pipe_ends_the_command_without_a_word(tmp_path: Path, static: Path) -> None:
    (tmp_path / "many.txt").write_text("the bank of the river\n" * 20_000)
    command = [
        sys.executable,
        "-m",
        "ctxembed_cli.main",
        "embed",
        tmp_path / "many.txt",
        "--format",
        "jsonl",
        "-m",
        static,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        first = process.stdout.readline()
        process.stdout.close()
        complaint = process.stderr.read()
    assert json.loads(first)["id"] == "many:1"
    assert complaint == ""
