"""One page for a run of `ctxembed bench`: the figures with their intervals, the comparisons, and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from ctxembed.evaluation.records import Suite
from ctxembed.evaluation.runner import Comparison, SystemResult, comparison_row, result_rows, system_table, task_notes
from ctxembed.report.charts import bars
from ctxembed.report.page import details, paragraph, render_page, section, table
from ctxembed.runtime import environment

_INTERVALS = (
    "Lines are 95 % bootstrap intervals of each system by itself. Whether two systems differ is said by the paired "
    "comparisons below, which see that both were asked the same: two intervals that overlap may still differ."
)


def benchmark_page(
    results: Sequence[SystemResult], comparisons: Sequence[Comparison], *, suite: Suite, seed: int
) -> str:
    """Return the page of a run.

    Args:
        results: What ``run_suite`` returned.
        comparisons: What ``compare_systems`` returned; none leaves the section out.
        suite: What it ran on.
        seed: The seed of the run.

    Returns:
        A self-contained HTML document, for ``report.page.write_page``.
    """
    parts = [_metric(results, metric) for metric in dict.fromkeys(each.result.metric for each in results)]
    if comparisons:
        rows = [
            {
                "task": each.task,
                "figure": each.metric,
                "difference": each.test.difference,
                "95 % interval": f"{each.test.low:+.3f} to {each.test.high:+.3f}",
                "of": f"{each.system} over {each.against}",
                "p": f"{each.p_holm:.4f}",
                "by": each.test.method,
            }
            for each in comparisons
        ]
        note = f"p-values are two-sided and corrected for all {len(rows)} comparisons by Holm's method."
        parts.append(section("Do they differ?", table(rows), note=note))
    parts.append(section("What the figures rest on", *_provenance(results, suite=suite, seed=seed)))
    numbers = [dict(row) for row in result_rows(results)]
    full = details("Every figure", table(numbers, digits=4)), details("Every comparison", _all(comparisons))
    parts.append(section("In full", *full))
    return render_page(f"ctxembed bench {suite.kind}", parts)


def _metric(results: Sequence[SystemResult], metric: str) -> Markup:
    """Draw a picture for each task of a metric, and its table."""
    chosen = [each for each in results if each.result.metric == metric]
    pictures = []
    for task in dict.fromkeys(each.result.task for each in chosen):
        of_task = [each for each in chosen if each.result.task == task]
        pictures.append(
            bars(
                {each.label: each.result.value for each in of_task},
                intervals={each.label: each.interval for each in of_task},
                caption=f"{task}: {metric} of {of_task[0].result.rows} rows, and how many have vectors: "
                + ", ".join(f"{each.label} {each.result.coverage:.0%}" for each in of_task),
            )
        )
    return section(metric, table(system_table(results, metric)), *pictures, note=_INTERVALS)


def _provenance(results: Sequence[SystemResult], *, suite: Suite, seed: int) -> list[Markup]:
    systems = {each.system: each.fingerprint for each in results}
    versions = ", ".join(f"{name} {version}" for name, version in environment()["versions"].items())
    parts = [paragraph(note) for note in task_notes(results)]
    parts.append(table([{"system": name, "fingerprint": value} for name, value in systems.items()]))
    if suite.skipped:
        rows = [{"file or folder": name, "why": why} for name, why in sorted(suite.skipped.items())]
        parts.append(details(f"{len(rows)} files or folders were passed over", table(rows)))
    parts.append(paragraph(f"Seed {seed}; {versions}.", small=True))
    return parts


def _all(comparisons: Sequence[Comparison]) -> Markup:
    return table([dict(comparison_row(each)) for each in comparisons], digits=4)
