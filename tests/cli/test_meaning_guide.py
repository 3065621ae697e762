"""docs/meaning.md: every command that it shows is run, in order, on speeches of a few words and with a tiny model."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from .conftest import Run, ctxembed

GUIDE = Path(__file__).parents[2] / "docs" / "meaning.md"


def test_commands_of_the_guide_run_in_order(
    run: Run, tmp_path: Path, static: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del run
    monkeypatch.setenv("CTXEMBED_MODEL", str(static))
    rows = [
        {"text": f"The energy and security of the service {'save' if year > 1945 else 'serve'} us.", "year": year}
        for year in (1900, 1930, 1950, 1980)
        for _ in range(32)
    ]
    (tmp_path / "speeches.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = GUIDE.read_text(encoding="utf-8").splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("    ctxembed ")]
    assert len(commands) >= 12
    for command in commands:
        quick = ["--permutations", "9"] if command[1] == "shift" else []
        ctxembed(*command[1:], *quick)
    assert {"energy.html", "energy.png", "energy-senses.html", "widx", "senses"} <= {p.name for p in tmp_path.iterdir()}
