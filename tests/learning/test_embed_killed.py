"""A run killed by SIGKILL, at whatever moment, ends as if nothing had happened, and repeats one part at most."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

NUM_DOCUMENTS, PART_ROWS, BATCH = 1200, 64, 16

# The writer is what is tested: the encoder is slow enough to be killed in between, and notes what it is asked for.
PROGRAM = """
import os, sys, time
import numpy as np
from ctxembed.types import Document
from ctxembed.units import embed_corpus

class Encoder:
    name, fingerprint, dimension = "slow", "0" * 64, 8

    def __init__(self, log):
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def encode(self, texts, *, prompt=None):
        time.sleep(0.004)
        os.write(self.log, "".join(text.split()[0] + "\\n" for text in texts).encode())
        return np.array([np.random.default_rng(int(text.split()[0])).standard_normal(8) for text in texts], np.float32)

folder, log, count, part_rows, batch = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
documents = (Document(str(number), f"{number} river") for number in range(count))
embed_corpus(documents, encoder=Encoder(log), path=folder, part_rows=part_rows, batch_size=batch, resume=True)
"""


def begin(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    numbers = map(str, (NUM_DOCUMENTS, PART_ROWS, BATCH))
    return subprocess.Popen([sys.executable, "-c", PROGRAM, folder, log, *numbers])


def computed(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL here")
@pytest.mark.parametrize("seed", [1, 2])
def test_run_killed_again_and_again_ends_with_the_files_of_an_uninterrupted_one(tmp_path: Path, seed: int) -> None:
    assert begin(tmp_path / "whole", tmp_path / "whole.log").wait(60) == 0
    assert len(computed(tmp_path / "whole.log")) == NUM_DOCUMENTS
    chance, logs = random.Random(seed), [tmp_path / "0.log"]
    for target in sorted(chance.sample(range(BATCH, NUM_DOCUMENTS - PART_ROWS), 5)):  # documents done by then
        process = begin(tmp_path / "killed", logs[-1])
        while process.poll() is None and not any(int(name) >= target for name in computed(logs[-1])[-1:]):
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)  # anywhere between two batches: while a part is written, say
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        logs.append(tmp_path / f"{len(logs)}.log")
    assert begin(tmp_path / "killed", logs[-1]).wait(60) == 0
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    runs = [computed(log) for log in logs]
    assert {name for run in runs for name in run} == {str(number) for number in range(NUM_DOCUMENTS)}
    assert all(len(set(run)) == len(run) for run in runs)
    again = [len(set(before) & set(after)) for before, after in itertools.pairwise(runs)]
    assert 0 <= max(again) <= PART_ROWS
    assert len(files(tmp_path / "whole")) > 2 * NUM_DOCUMENTS // PART_ROWS
