"""Writes the tables of README.md, docs/ and the model card from the result files beside this file.

A table stands between `<!-- figures: NAME -->` and `<!-- end of figures -->`; what is between them is replaced.
`figures.py` writes, `figures.py --check` only says which file is out of date, and exits with 1 if one is.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PAGES = ["README.md", "data/models/encoder/README.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
OURS, STATIC, MINILM = "ctxembed-small", "static", "all-MiniLM-L6-v2"
Rows = list[list[str]]
Task = tuple[str, str, str]
"""Result file, task and metric."""

WORDS: dict[str, Task] = {
    "shipped set (864 pairs)": ("duel/shipped-words", "word_in_context", "accuracy"),
    "WiC dev (638)": ("duel/wic", "wic", "accuracy"),
    "MCL-WiC dev (1,000)": ("duel/mcl_wic_en", "mcl_wic_en", "accuracy"),
}
SENSES: dict[str, Task] = {
    "shipped uses (432)": ("duel/shipped-senses", "word_in_context", "1-NN accuracy"),
    **{
        f"{word} ({uses:,})": ("duel/senseval", word, "1-NN accuracy")
        for word, uses in {"hard": 2166, "interest": 1183, "line": 2071, "serve": 2188}.items()
    },
}
PAIRS: dict[str, Task] = {
    "SimLex-999": ("duel/wordsim", "simlex-999", "spearman"),
    "WordSim-353": ("duel/wordsim", "ws-353-all", "spearman"),
    "its rarer half": ("duel/wordsim-by-frequency", "ws-353-all, rarer half", "spearman"),
    "its commoner half": ("duel/wordsim-by-frequency", "ws-353-all, commoner half", "spearman"),
}
TEXTS: dict[str, Task] = {
    "STS-B dev (1,500 pairs), Spearman": ("duel/stsb", "stsb", "spearman"),
    "SICK dev (500), Spearman": ("duel/sick", "sick", "spearman"),
    "shipped retrieval (60 queries), nDCG@10": ("duel/shipped-retrieval", "retrieval", "nDCG@10"),
    "Cranfield (225), nDCG@10": ("duel/cranfield", "cranfield", "nDCG@10"),
    "CISI (76), nDCG@10": ("duel/cisi", "cisi", "nDCG@10"),
    "ADI (35), nDCG@10": ("duel/adi", "adi", "nDCG@10"),
}
LOOKUPS = {
    f"layer 0 of {OURS}": f"layer0 of {OURS}",
    f"twin of {OURS}": f"twin of {OURS}",
    f"layer 0 of {MINILM}": f"layer0 of {MINILM}",
}
BASELINES = {name: name for name in ("length", "random", "constant")}


@cache
def results(name: str) -> dict[str, Any]:
    """Read a result file."""
    content: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text())
    return content


def score(system: str, task: Task) -> dict[str, Any] | None:
    """Find the row of a system on a task; None if it was not entered there."""
    file, name, metric = task
    found = [
        row
        for row in results(file)["results"]
        if (row["system"], row["task"], row["metric"]) == (system, name, metric)
    ]
    return found[0] if found else None


def number(value: float) -> str:
    """Write a figure of at most one: .591, -.012, 1.000."""
    return f"{value:.3f}".replace("0.", ".", 1)


def scores(systems: dict[str, str], tasks: dict[str, Task], *, corner: str = "", intervals: int = 0) -> Rows:
    """Make a table, a row for each system; the best of a column is bold, the first rows have intervals."""
    table = [[corner, *tasks]]
    for place, (label, system) in enumerate(systems.items()):
        cells = [label]
        for task in tasks.values():
            row, best = score(system, task), 0.0
            for other in systems.values():
                best = max(best, (score(other, task) or {"value": 0.0})["value"])
            cell = "" if row is None else number(row["value"])
            if row is not None and row["value"] == best:
                cell = f"**{cell}**"
            if row is not None and place < intervals:
                cell += f" [{number(row['low'])}, {number(row['high'])}]"
            if row is not None and row["unknown_words"]:
                cell += f" ({100 * row['unknown_words'] / row['words']:.1f} % unknown)"
            cells.append(cell)
        table.append(cells)
    return table


def turned(table: Rows) -> Rows:
    """Exchange rows and columns."""
    return [list(column) for column in zip(*table, strict=True)]


def headline() -> Rows:
    """The model that ships, the static lookup and MiniLM on everything."""
    systems = {"ctxembed-small, ships": OURS, "static Word2Vec, ships": STATIC, "all-MiniLM-L6-v2 (22.7 M parameters)": MINILM}
    tasks = {
        "same sense or not: WiC dev": WORDS["WiC dev (638)"],
        "same sense or not: MCL-WiC dev": WORDS["MCL-WiC dev (1,000)"],
        "same sense or not: the shipped set": WORDS["shipped set (864 pairs)"],
        "nearest use has the same sense: line": SENSES["line (2,071)"],
        "sentence similarity: STS-B dev, Spearman": TEXTS["STS-B dev (1,500 pairs), Spearman"],
        "sentence similarity: SICK dev, Spearman": TEXTS["SICK dev (500), Spearman"],
        "retrieval: the shipped set, nDCG@10": TEXTS["shipped retrieval (60 queries), nDCG@10"],
        "retrieval: Cranfield, nDCG@10": TEXTS["Cranfield (225), nDCG@10"],
        "retrieval: CISI, nDCG@10": TEXTS["CISI (76), nDCG@10"],
        "retrieval: ADI, nDCG@10": TEXTS["ADI (35), nDCG@10"],
    }
    return turned(scores(systems, tasks))


def stages() -> Rows:
    """The model that ships after each stage of its training."""
    systems = {
        "3, two cores": "meaning",
        "4, two cores": "sentences",
        "5, one GPU": "followed",
        "6, two cores": "polished",
        "mean of 5 and 6": "averaged",
        "7, one GPU": "further",
        "mean of 7 and the one before": "wide",
        "8 and 9, two cores": "ending",
        "mean of 7 and 9, ships": OURS,
    }
    tasks = {
        "WiC dev": WORDS["WiC dev (638)"],
        "MCL-WiC dev": WORDS["MCL-WiC dev (1,000)"],
        "shipped pairs": WORDS["shipped set (864 pairs)"],
        "line": SENSES["line (2,071)"],
        **{name.split(" (")[0]: task for name, task in TEXTS.items() if "shipped" not in name},
    }
    tasks = {name: (file.replace("duel/", "stages/"), *rest) for name, (file, *rest) in tasks.items()}
    return scores(systems, tasks, corner="after stage")


def words() -> Rows:
    """Same meaning or not."""
    systems = {OURS: OURS, MINILM: MINILM, STATIC: STATIC} | LOOKUPS | BASELINES
    return scores(systems, WORDS, corner="same meaning or not, accuracy", intervals=2)


def senses() -> Rows:
    """Is the nearest use one of the same sense."""
    systems = {OURS: OURS, MINILM: MINILM, STATIC: STATIC, f"layer 0 of {OURS}": f"layer0 of {OURS}", "random": "random"}
    return scores(systems, SENSES, corner="nearest use of the word has the same sense, accuracy")


def pairs() -> Rows:
    """Words without context."""
    systems = {OURS: OURS, STATIC: STATIC, f"layer 0 of {OURS}": f"layer0 of {OURS}", MINILM: MINILM}
    systems[f"layer 0 of {MINILM}"] = f"layer0 of {MINILM}"
    return scores(systems, PAIRS, corner="word pairs, Spearman")


def texts() -> Rows:
    """Sentences and documents."""
    systems = {OURS: OURS, MINILM: MINILM, STATIC: STATIC, "static, SIF": "static+sif"}
    systems["static, SIF, common component removed"] = "static+sif+common"
    systems |= {f"layer 0 of {OURS}": f"layer0 of {OURS}", f"twin of {OURS}": f"twin of {OURS}"}
    return scores(systems | {"BM25": "bm25 (bm25s)", "length": "length"}, TEXTS)


def layers() -> Rows:
    """Same meaning or not, by every layer, and by an encoder of the same shape with untrained weights."""
    table = [["layer", *(f"{model}: {task}" for model in (OURS, MINILM) for task in WORDS)]]
    for layer in range(1, 7):
        found = [
            score(f"{model} layer {layer}", (f"duel/layers/{Path(file).name}-{layer}", task, metric))
            for model in (OURS, MINILM)
            for file, task, metric in WORDS.values()
        ]
        table.append([str(layer), *("" if row is None else number(row["value"]) for row in found)])
    untrained = [
        score("untrained", (f"duel/layers/{Path(file).name}-untrained", task, metric))
        for file, task, metric in WORDS.values()
    ]
    table.append(["untrained", *("" if row is None else number(row["value"]) for row in untrained), "", "", ""])
    return table


LEARNED: dict[str, tuple[str, str]] = {
    "STS-B dev": ("stsb", "spearman"),
    "SICK dev": ("sick", "spearman"),
    "WiC dev": ("wic", "accuracy"),
    "MCL-WiC dev": ("mcl_wic_en", "accuracy"),
    "Cranfield nDCG@10": ("cranfield", "nDCG@10"),
    "shipped pairs": ("word_in_context", "accuracy"),
}


def objectives() -> Rows:
    """What each mixture of objectives learns in the same time; half the range of several seeds behind the mean."""
    runs = defaultdict(list)
    for path in sorted((HERE / "objectives").glob("*.json")):
        runs[path.stem.rpartition("-")[0] or path.stem].append(results(f"objectives/{path.stem}"))
    table = [["mixture", "seeds", "steps", "tokens, M", "own held-out loss", *LEARNED]]
    return [*table, *([name, str(len(members)), *_learned(members)] for name, members in runs.items())]


def dropping() -> Rows:
    """What masked words teach in the same time with and without tokens that pass by the middle layers."""
    table = [["begins with", "dropped", "steps", "tokens, M", "held-out loss", *LEARNED]]
    for start, name in (("new", "nothing"), ("field", "the model that ships")):
        for share in ("0.0", "0.5"):
            table.append([name, "half" if float(share) else "none", *_learned([results(f"dropping/{start}-{share}")])])
    return table


def _learned(runs: list[dict[str, Any]]) -> list[str]:
    """Return steps, millions of tokens, held-out loss and development scores of the runs of one row."""
    found = [{(row["task"], row["metric"]): row["value"] for row in run["results"]} for run in runs]
    cells = [str(runs[0]["steps"]), f"{runs[0]['tokens_seen'] / 1e6:.1f}"]
    cells.append(_mean([run["held_out"]["eval_loss"] for run in runs]))
    return [*cells, *(_mean([run[task] for run in found]) for task in LEARNED.values())]


def _mean(values: list[float]) -> str:
    mean = number(sum(values) / len(values))
    return mean if len(values) == 1 else f"{mean} ± {number((max(values) - min(values)) / 2)}"


def reliability() -> Rows:
    """How true the probabilities of `compare` are."""
    rows = [*results("compare-reliability")["results"], *results("compare-reliability-minilm")["results"]]
    table = [["", "right side of the threshold", "Brier score", "expected calibration error"]]
    for row in rows:
        table.append([row["system"], *map(number, (row["accuracy"], row["brier"], row["expected_calibration_error"]))])
    return table


def why() -> Rows:
    """How often the word that decides the sense comes first."""
    ours, other = results("compare-why")["results"], results("compare-why-minilm")["results"]
    heads = [f"{model}: {which}" for model in (OURS, MINILM) for which in ("all words", "content words")]
    table = [["", *heads]]
    for mine in ours:
        beside = [row for row in other if row["method"] == mine["method"]]
        cells = [
            f"{row[first]:.2f} ({row[low]:.2f} to {row[high]:.2f})"
            for row in (mine, *beside)
            for first, low, high in (("first", "low", "high"), ("first_of_content", "content_low", "content_high"))
        ]
        table.append([mine["method"], *cells])
    return table


def planted() -> Rows:
    """How often planted shifts are reported."""
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in results("planted-shift")["rows"]:
        kinds[row["planted"]].append(row)
    heads = [f"{kind} ({rows[0]['tests']} tests): {name}" for kind, rows in kinds.items() for name in ("`p`", "`p_jsd`")]
    table = [["share replaced", *heads]]
    for rows in zip(*kinds.values(), strict=True):
        shares = (number(row[name]) for row in rows for name in ("reported_p", "reported_p_jsd"))
        table.append([f"{rows[0]['share']:g}", *shares])
    return table


def _grouping(file: str, **wanted: str) -> dict[str, Any]:
    [row] = [row for row in results(file)["rows"] if all(row[name] == value for name, value in wanted.items())]
    return row


def _above(row: dict[str, Any], *others: dict[str, Any]) -> list[str]:
    """Write V-measure, ARI and paired F of a grouping, bold where all others are below."""
    cells = []
    for name in ("v_measure", "ari", "paired_f"):
        best = max(other[name] for other in others)
        cells.append(f"**{number(row[name])}**" if row[name] > best else number(row[name]))
    return cells


BLIND = ("one group", "each alone", "random", "static context")
FOUR = ("hard", "interest", "line", "serve")


def groups() -> Rows:
    """Groups of labelled uses, as many as there are senses; bold above every grouping that knows nothing."""
    heads = ["senses", "V-measure", "ARI", "paired F", "each alone, V", "static contexts, V", "one group, F"]
    table = [["", *heads]]
    for word in FOUR:
        given = {"number": "given", "by": "word and sentence", "word": word}
        blind = {system: _grouping("senses", **given, system=system) for system in BLIND}
        own = _grouping("senses", **given, system="found")
        beside = (blind["each alone"]["v_measure"], blind["static context"]["v_measure"], blind["one group"]["paired_f"])
        table.append([word, str(own["senses"]), *_above(own, *blind.values()), *map(number, beside)])
    return table


def groups_found() -> Rows:
    """The same, with the number of groups left open; of two models."""
    heads = ["groups", "V-measure", "ARI", "paired F", "MiniLM: groups", "V-measure", "ARI", "paired F"]
    table = [["", *heads]]
    for word in FOUR:
        cells = [word]
        for file in ("senses", "senses-minilm"):
            given = {"number": "given", "by": "word and sentence", "word": word}
            own = _grouping(file, number="found", by="word and sentence", word=word, system="found")
            cells += [str(own["groups"]), *_above(own, *(_grouping(file, **given, system=system) for system in BLIND))]
        table.append(cells)
    return table


def speed() -> Rows:
    """Text to sentence vectors, beside other libraries with the same weights."""
    kept: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in results("speed")["results"]:
        kept[row["system"], row["model"], row["precision"]][row["workload"]] = row
    table = [["", "mixed, texts a second", "titles, texts a second", "lowest cosine to float32", "query, median ms"]]
    for (system, model, precision), rows in kept.items():
        name = f"{model}, the model that ships" if model == OURS else f"{system.removesuffix('-' + precision)}, {precision}"
        rates = [f"{rows[workload]['sentences_per_second']:,.0f}" for workload in ("mixed", "titles")]
        cosine = "" if model == OURS else f"{rows['mixed']['min_cosine']:.4f}".replace("0.", ".", 1)
        table.append([name, *rates, cosine, f"{rows['query']['latency_ms']:.1f}"])
    return table


def adapted() -> Rows:
    """A model before and after pairs of a field."""
    systems = {"before": OURS, "pairs alone": "pairs", "pairs, text and itself": "kept", "BM25": "bm25 (bm25s)"}
    tasks = {
        "field: nDCG@10": ("adapt/field", "test", "nDCG@10"),
        "shipped retrieval, nDCG@10": ("adapt/retrieval", "retrieval", "nDCG@10"),
        "STS-B dev, Spearman": ("adapt/stsb", "stsb", "spearman"),
        "MCL-WiC dev, accuracy": ("adapt/mcl_wic_en", "mcl_wic_en", "accuracy"),
    }
    return scores(systems, tasks)


def kinds_at_a_million() -> Rows:
    """Every kind of index beside bare FAISS, a million rows."""
    return _kinds("index-kinds-1000000")


def kinds_at_a_hundred_thousand() -> Rows:
    """The same with a tenth of the rows."""
    return _kinds("index-kinds-100000")


def _kinds(file: str) -> Rows:
    table = [["kind", "build, s", "tune and measure, s", "peak memory, MiB", "bytes of memory a row", "recall@10", "open, ms"]]
    table[0] += ["queries/s, one at a time", "queries/s, many at a time"]
    order = ("flat", "hnsw", "ivf-sq8", "ivf-pq")
    for row in sorted(results(file)["results"], key=lambda row: order.index(row["kind"])):
        ours, bare, both = row["build_ours"], row["build_bare"], row["search_both"]
        table.append(
            [
                f"`{row['kind']}`",
                f"{ours['build_s']:.0f} ({bare['build_s']:.0f})",
                f"{ours['tune_and_measure_s']:.0f}",
                f"{ours['peak_mib']:,.0f} ({bare['peak_mib']:,.0f})",
                f"{ours['bytes_per_row']:,.0f}",
                number(both["ours_recall"]),
                f"{both['open_ms']:.0f}",
                *(f"{both[f'ours_{how}_qps']:,.0f} ({both[f'{how}_time_ratio']:.2f})" for how in ("one", "many")),
            ]
        )
    return table


TABLES: dict[str, Callable[[], Rows]] = {
    table.__name__: table
    for table in (headline, stages, words, layers, senses, pairs, texts, objectives, dropping)
    + (reliability, why, planted, groups, groups_found, speed, adapted, kinds_at_a_million, kinds_at_a_hundred_thousand)
}


def markdown(table: Rows) -> str:
    """Write a table whose first column stands left and all others right."""
    heads, *rows = table
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


PLACE = re.compile(r"(<!-- figures: (\w+) -->\n).*?(\n<!-- end of figures -->)", re.DOTALL)


def filled(page: str) -> str:
    """Return a page with the tables of today."""
    return PLACE.sub(lambda found: f"{found[1]}\n{markdown(TABLES[found[2]]())}\n{found[3]}", page)


def main() -> int:
    """Write the pages, or check them; every table must have its place."""
    pages = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
    placed = {found[2] for page in pages.values() for found in PLACE.finditer(page)}
    stale = [name for name, page in pages.items() if filled(page) != page]
    if "--check" not in sys.argv:
        for name in stale:
            (ROOT / name).write_text(filled(pages[name]), encoding="utf-8")
    problems = [*stale, *(f"no page has the table {name}" for name in TABLES.keys() - placed)]
    print("\n".join(problems) or "all tables are those of the result files")
    return int(bool(problems) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
