"""The tables of README, docs and the model card are those of the result files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_table_of_figures_is_that_of_the_result_files() -> None:
    program = ROOT / "data" / "results" / "figures.py"
    done = subprocess.run([sys.executable, program, "--check"], capture_output=True, text=True, check=False)
    assert done.stdout == "all tables are those of the result files\n"
    assert done.returncode == 0
