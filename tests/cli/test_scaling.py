"""``ctxembed bench scaling``, in a few seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ctxembed.evaluation.scaling import SHARES, ScalingTrial

if TYPE_CHECKING:
    from .conftest import Run


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every part as small as it can be."""
    import ctxembed.evaluation.scaling as home

    def trial(**given: object) -> ScalingTrial:
        sizes = {"num_layers": 1, "row_tokens": 16, "batch_tokens": 64, "lengths": (8, 16), "batches": (1,)}
        rest = {"growth": (1, 2), "writing": (8,), "memory": (64,), "vocab_size": 300}
        return ScalingTrial(**{**given, **sizes, **rest})  # type: ignore[arg-type]

    monkeypatch.setattr(home, "ScalingTrial", trial)


def test_json_is_a_row_for_each_figure_of_each_system(run: Run, small: None) -> None:
    outcome = run("bench", "scaling", "--budget", "1", "--width", "32", "--format", "json", "-o", "out.json")
    assert {row["part"] for row in outcome.json} == set(SHARES)
    assert {row["system"] for row in outcome.json} == {"transformer", "recurrent"}
    kept = json.loads(Path("out.json").read_text(encoding="utf-8"))
    assert kept["inputs"] == ["sample.txt"]
    assert [each["value"] for each in kept["figures"]] == [row["value"] for row in outcome.json]


def test_table_sets_both_side_by_side_and_says_who_is_ahead(run: Run, small: None) -> None:
    outcome = run("bench", "scaling", "--budget", "1", "--width", "32", "--plot", "out.png")
    assert "length: training tokens a second" in outcome.stdout
    assert "growth: lowest held-out loss" in outcome.stdout
    lines = outcome.stdout.splitlines()
    steps = lines.index(next(line for line in lines if line.startswith("length: sequential steps")))
    assert lines[steps + 1].split()[-4:] == ["transformer", "recurrent", "ahead", "times"]
    assert lines[steps + 2].split()[1:2] + lines[steps + 2].split()[3:4] == ["2", "transformer"]
    assert "parameters: transformer" in outcome.stderr
    assert Path("out.png").exists()


def test_reading_options_need_an_input(run: Run) -> None:
    assert "--text-column does nothing without INPUT" in run("bench", "scaling", "--text-column", "x", code=2).stderr
