"""The page of `ctxembed index map`: rows as points in the plane, coloured by group, with their texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from ctxembed.report.charts import scatter
from ctxembed.report.page import paragraph, render_page, section, table


def map_page(
    points: NDArray[Any], *, texts: Sequence[str], groups: Sequence[str], colour: str, share: float, total: int
) -> str:
    """Return the page.

    Args:
        points: (N, 2).
        texts: N texts, shown over their points.
        groups: N names.
        colour: What the groups are.
        share: Of the variance that the plane shows, in [0, 1].
        total: Rows of the index; the N drawn may be a sample.
    """
    counts = Counter(groups)
    order = sorted(range(len(groups)), key=lambda place: -counts[groups[place]])  # the largest group lies below
    caption = f"{len(points):,} of {total:,} rows; colour and shape: {colour}. Hover over a point to read it."
    drawing = scatter(
        points[order], texts=[texts[n] for n in order], groups=[groups[n] for n in order], caption=caption
    )
    note = (
        f"The plane shows {100 * share:.0f} % of the variance between the vectors: rows that lie together here may "
        "still differ in what it does not show."
    )
    rows = [{colour: name, "rows": count} for name, count in counts.most_common()]
    return render_page(
        "Map of an index",
        [paragraph(note), section("Rows by meaning", drawing), section(f"Rows by {colour}", table(rows))],
    )
