"""``ctxembed compare --measure``: what its probabilities and --why are worth, on the sets that ship."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Run


def test_reliability_is_measured_on_the_other_half(run: Run, model: Path, static: Path) -> None:
    record = run("compare", "--measure", "reliability", "-m", model, "--static", static, "--format", "json").json
    encoder, lookup = record["results"]
    assert (encoder["system"], lookup["system"]) == ("model", "static")
    assert (encoder["fitted_on"], encoder["measured_on"]) == ("word_in_context dev", "word_in_context test")
    assert encoder["pairs"] == sum(each["pairs"] for each in encoder["bins"]) == 864
    assert 0 <= encoder["expected_calibration_error"] < 0.5
    assert lookup["accuracy"] == pytest.approx(0.5, abs=0.02)
    table = run("compare", "--measure", "reliability", "-m", model, "--no-static").stdout
    assert table.startswith("fitted on word_in_context dev, measured on word_in_context test")


@pytest.mark.parametrize("options", ["--no-static", "--static words"])
def test_static_vectors_are_refused_where_nothing_is_asked_of_them(run: Run, options: str) -> None:
    outcome = run("compare", "--measure", "why", *options.split(), "-m", "no-model", code=2)
    assert f"{options.split()[0]} does nothing with --measure why" in outcome.stderr


@pytest.mark.parametrize(
    "options",
    ["--html p.html", "--why", "--layers all", "--swap a=b", "--senses s", "--word a", "--nearest 3", "--raw",
     "--max-uses 3"],
)  # fmt: skip
@pytest.mark.parametrize("measure", ["reliability", "why"])
def test_what_is_asked_of_uses_is_refused_where_the_sets_that_ship_are_measured(
    run: Run, measure: str, options: str
) -> None:
    outcome = run("compare", "--measure", measure, *options.split(), "-m", "no-model", code=2)
    assert f"{options.split()[0]} does nothing with --measure" in outcome.stderr
