from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxembed.errors import InvalidInputError, MissingInputError
from ctxembed.report.curves import draw_curves, read_metrics

RATES = {"learning_rate": 0.1, "gradient_norm": 1.0, "tokens": 5, "seconds": 0.5}


def write(folder: Path, lines: list[dict[str, float]]) -> Path:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder


def course(steps: int) -> list[dict[str, float]]:
    """A mixture of two objectives, evaluated every tenth step."""
    lines: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        lines.append({"step": step, "loss": 9 / step, "mlm": 5 / step, "simcse": 4 / step, **RATES})
        if step % 10 == 0:
            lines.append({"step": step, "eval_loss": 8 / step, "eval_mlm": 6 / step, "tokens": 5, "seconds": 0.5})
    return lines


def drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The figure that was saved, whose axes and lines can be asked."""
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    save = Figure.savefig

    def remembered(self: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", remembered)
    assert draw_curves(folder) == folder / "loss.png"
    return figures[0]


# Reading


def test_metrics_are_read_line_by_line(tmp_path: Path) -> None:
    assert read_metrics(write(tmp_path, course(3)) / "metrics.jsonl") == course(3)


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    file = write(tmp_path, course(3)) / "metrics.jsonl"
    with file.open("a", encoding="utf-8") as stream:
        stream.write('{"step": 4, "lo')
    assert read_metrics(file) == course(3)


@pytest.mark.parametrize("line", ["not json", "[1, 2]", "3", '{"loss": 1.0}'])
def test_a_line_that_is_no_metrics_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(f'{{"step": 1, "loss": 2.0}}\n{line}\n', encoding="utf-8")
    with pytest.raises(InvalidInputError, match=r"metrics\.jsonl:2 is no line of metrics: "):
        read_metrics(file)


def test_a_folder_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"metrics\.jsonl does not exist"):
        draw_curves(tmp_path)


# Drawing


def test_the_picture_is_a_png_that_any_two_draws_give_alike(tmp_path: Path) -> None:
    picture = draw_curves(write(tmp_path, course(30)))
    first = picture.read_bytes()
    assert first.startswith(b"\x89PNG")
    assert draw_curves(tmp_path).read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.png", "metrics.jsonl"]


def test_every_loss_has_a_panel_with_its_held_out_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = drawn(write(tmp_path, course(30)), monkeypatch).axes
    assert [axis.get_title() for axis in axes] == ["loss", "mlm", "simcse"]
    lines = {axis.get_title(): axis.get_lines() for axis in axes}
    assert [len(lines[name]) for name in ("loss", "mlm", "simcse")] == [3, 3, 2]  # simcse was not measured held out
    raw, _, held = lines["mlm"]
    assert raw.get_xdata().tolist() == list(range(1, 31))
    np.testing.assert_allclose(raw.get_ydata(), 5 / np.arange(1, 31))
    assert held.get_xdata().tolist() == [10, 20, 30]
    np.testing.assert_allclose(held.get_ydata(), [0.6, 0.3, 0.2])


def test_the_smooth_line_is_the_mean_of_the_last_fifty_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random(120)
    lines = [{"step": step, "loss": value} for step, value in enumerate(values.tolist(), start=1)]
    (axis,) = drawn(write(tmp_path, lines), monkeypatch).axes
    smooth = axis.get_lines()[1].get_ydata()
    np.testing.assert_allclose(smooth, [values[max(0, n - 49) : n + 1].mean() for n in range(120)])


@pytest.mark.parametrize("lines", [[], [{"step": 1, "loss": 2.0}]])
def test_a_run_that_has_hardly_begun_can_be_drawn(tmp_path: Path, lines: list[dict[str, float]]) -> None:
    assert draw_curves(write(tmp_path, lines)).stat().st_size > 1000
