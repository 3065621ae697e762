"""Prints the table of objectives as Markdown from the files that `measure.sh objectives` keeps; mean of the seeds.

Where a mixture has several seeds, half the distance from its lowest to its highest figure follows the mean.
"""

import json
from collections import defaultdict
from pathlib import Path

FIGURES = {  # heading: task and metric
    "STS-B dev": ("stsb", "spearman"),
    "SICK dev": ("sick", "spearman"),
    "WiC dev": ("wic", "accuracy"),
    "MCL-WiC dev": ("mcl_wic_en", "accuracy"),
    "Cranfield nDCG@10": ("cranfield", "nDCG@10"),
    "shipped pairs": ("word_in_context", "accuracy"),
}


def figure(values: list[float]) -> str:
    """Write a mean, and the half range of several values."""
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.3f}"


runs = defaultdict(list)
for path in sorted((Path(__file__).parent / "objectives").glob("*.json")):
    runs[path.stem.rpartition("-")[0] or path.stem].append(json.loads(path.read_text()))
print("| mixture | seeds | steps | tokens, M | own held-out loss |", " | ".join(FIGURES), "|")
print("| --- |" + " ---: |" * (4 + len(FIGURES)))
for name, members in runs.items():
    cells = [str(len(members)), str(members[0]["steps"]), f"{members[0]['tokens_seen'] / 1e6:.1f}"]
    cells.append(figure([run["held_out"]["eval_loss"] for run in members]))
    found = [{(row["task"], row["metric"]): row["value"] for row in run["results"]} for run in members]
    cells += [figure([run[key] for run in found]) for key in FIGURES.values()]
    print(f"| {name} |", " | ".join(cells), "|")
