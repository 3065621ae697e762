from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxembed import __version__, runtime
from ctxembed.errors import MissingInputError, MissingLibraryError
from ctxembed.runtime import (
    atomic_directory,
    atomic_path,
    cache_directory,
    data_directory,
    default_model,
    environment,
    existing,
    model_folder,
    progress,
    require,
    sha256_file,
    sha256_text,
    write_json,
)


def names(folder: Path) -> list[str]:
    """What a folder holds, hidden files included."""
    return sorted(path.name for path in folder.iterdir())


# Libraries


def test_installed_library_is_imported() -> None:
    assert require("json", "any") is json


def test_library_that_is_not_installed_is_an_error_with_the_pip_line() -> None:
    with pytest.raises(MissingLibraryError, match=r"pip install '\.\[plots\]' in a checkout"):
        require("no_such_library", "plots")


# Progress


def test_progress_gives_the_items_and_is_silent_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress([1, 2, 3], total=3, label="counting")) == [1, 2, 3]
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_progress_is_silent_on_a_terminal_for_short_work(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress(range(3))) == [0, 1, 2]
    assert stream.getvalue() == ""


# Hashes


def test_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x00\xff" * 70_000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"\x00\xff" * 70_000).hexdigest()


def test_hash_of_texts_is_that_of_lengths_and_bytes() -> None:
    expected = hashlib.sha256(b"\x02" + bytes(7) + "é".encode() + bytes(8)).hexdigest()
    assert sha256_text("é", "") == expected


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=[])), max_size=4), st.lists(st.text(), max_size=4))
def test_lists_of_texts_have_equal_hashes_only_when_equal(left: list[str], right: list[str]) -> None:
    assert (sha256_text(*left) == sha256_text(*right)) == (left == right)
    assert sha256_text("", *left) != sha256_text(*left)


# Atomic writes


def test_atomic_path_puts_the_file_in_place_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "a.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert not target.exists()
    assert target.read_text(encoding="utf-8") == "new"
    assert names(target.parent) == ["a.txt"]


def test_atomic_path_gives_the_rights_of_new_files(tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    with atomic_path(tmp_path / "file") as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, mode=0o600))
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_atomic_path_replaces_an_older_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "new"


def test_atomic_directory_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    for number in (1, 2):
        with atomic_directory(tmp_path / "deep" / "model") as folder:
            (folder / f"{number}.txt").write_text("x", encoding="utf-8")
            assert names(folder) == [f"{number}.txt"]
    assert names(tmp_path / "deep") == ["model"]
    assert names(tmp_path / "deep" / "model") == ["2.txt"]
    assert (tmp_path / "deep" / "model").stat().st_mode & 0o777 == 0o755


def failing_file(folder: Path) -> None:
    with atomic_path(folder / "old") as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt


def failing_directory(folder: Path) -> None:
    with atomic_directory(folder / "old") as staging:
        (staging / "half").write_text("half", encoding="utf-8")
        raise KeyboardInterrupt


@pytest.mark.parametrize("write", [failing_file, failing_directory])
def test_interrupted_write_leaves_what_was_there(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "old").write_text("old", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text(encoding="utf-8") == "old"


def test_json_is_indented_readable_and_the_same_each_time(tmp_path: Path) -> None:
    value: Any = {"b": [1, 2.5, None], "a": "café"}
    write_json(tmp_path / "a.json", value)
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == (
        '{\n  "b": [\n    1,\n    2.5,\n    null\n  ],\n  "a": "café"\n}\n'
    )
    write_json(tmp_path / "b.json", value)
    assert sha256_file(tmp_path / "a.json") == sha256_file(tmp_path / "b.json")


def test_value_that_json_cannot_hold_leaves_the_older_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert names(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "1\n"


# Places


def test_existing_path_is_returned_as_a_path(tmp_path: Path) -> None:
    assert existing(str(tmp_path)) == tmp_path


def test_missing_path_is_an_error_that_says_where_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingInputError) as raised:
        existing("corpus.txt")
    assert str(raised.value) == f"corpus.txt does not exist: check the spelling, or where you are ({tmp_path})"


def test_data_directory_holds_the_sample_corpus() -> None:
    assert (data_directory() / "corpora" / "sample.txt").is_file()


def test_installation_without_data_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingInputError, match="ctxembed_data is not installed: reinstall ctxembed from its wheel"):
        data_directory()


def test_a_model_is_named_by_its_folder_or_as_the_one_that_ships() -> None:
    assert model_folder("some/model") == model_folder(Path("some/model")) == Path("some/model")
    assert model_folder(None) == model_folder("default") == default_model("encoder")
    assert model_folder("default", "static") == default_model("static")


def test_default_model_is_the_one_in_the_data_or_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "data_directory", lambda: tmp_path)
    (tmp_path / "models" / "encoder").mkdir(parents=True)
    assert default_model("encoder") == tmp_path / "models" / "encoder"
    with pytest.raises(MissingInputError, match="ships no static model: train one, and name its folder"):
        default_model("static")


def test_cache_directory_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTXEMBED_CACHE", str(tmp_path / "cache"))
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("CTXEMBED_CACHE")
    assert cache_directory().name == "ctxembed"
    assert cache_directory().is_absolute()


# The record of the environment


def test_environment_names_versions_and_machine_kind() -> None:
    record = environment()
    assert record["versions"]["ctxembed"] == __version__
    assert record["versions"]["python"] == platform.python_version()
    assert {"torch", "tokenizers", "faiss-cpu", "numpy"} <= set(record["versions"])
    assert (record["system"], record["machine"], record["cores"]) == (
        platform.system(),
        platform.machine(),
        os.cpu_count(),
    )


def test_environment_is_json_and_gives_away_neither_host_nor_place() -> None:
    said = json.dumps(environment())
    assert json.loads(said) == environment()
    for secret in (socket.gethostname(), str(Path.cwd()), str(Path.home())):
        assert secret not in said or len(secret) < 3


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told to give memory back")
def test_freed_memory_goes_back_to_the_system() -> None:
    """Small blocks with one held at the end keep a heap from shrinking by itself."""
    code = (
        "from ctxembed.runtime import release_memory\n"
        "size = lambda: int(open('/proc/self/statm').read().split()[1])\n"
        "blocks = [bytes(1000) for _ in range(300_000)]\n"
        "held = blocks[::1000]; full = size(); del blocks; before = size(); release_memory()\n"
        "print(full, before, size())"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    full, before, after = map(int, output.split())
    assert after < before <= full
    assert after < full / 2


@pytest.mark.parametrize(
    "chosen, spins",
    [({}, str(runtime.SPINS)), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_waiting_briefly_keeps_what_the_user_has_set(
    monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str], spins: str | None
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # remembered, so that what the call sets is undone
        monkeypatch.delenv(name)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    runtime.wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == spins
