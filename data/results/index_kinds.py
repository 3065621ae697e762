"""Measure each kind of index beside bare FAISS with the same parameters: python index_kinds.py ROWS OUT SCRATCH [KIND...].

Vectors are synthetic: unit vectors of width 384 around ROWS / 100 centres, from a seeded generator; so are the 1,000
queries. Every step runs in a process of its own, which tells its peak memory. After both builds one process opens both
indexes and searches them in turns, so that a noisy machine is equally noisy to both.

OUT is written after each step, and steps that it holds are not done again: a run that was stopped goes on where it was.
Delete OUT to measure anew. Without KIND it is every kind that `auto` may choose for so many rows.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from ctxembed.index import vector_index as index_module
from ctxembed.index import VectorIndex
from ctxembed.index.files import prepare_training
from ctxembed.index.kinds import HNSW_LINKS, HNSW_ROWS, IndexOptions, plan_index
from ctxembed.runtime import environment, write_json

DIMENSION, NUM_QUERIES, K, ROUNDS = 384, 1000, 10, 5
KINDS = ("flat", "hnsw", "ivf-sq8", "ivf-pq")
COMPARED = 100_000_000
"""Queries times rows of one timed batch of a flat index."""


def make_vectors(rows: int, scratch: Path) -> None:
    """Write vectors and queries, and the tenth best score of each query, unless they are there."""
    path, truth = scratch / f"vectors-{rows}.npy", scratch / f"truth-{rows}.npy"
    if truth.exists():
        return
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((max(10, rows // 100), DIMENSION), dtype=np.float32)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows + NUM_QUERIES, DIMENSION))
    for start in range(0, len(array), 10_000):
        size = min(10_000, len(array) - start)
        block = centres[rng.integers(0, len(centres), size)] + rng.standard_normal((size, DIMENSION), dtype=np.float32)
        array[start : start + size] = block / np.linalg.norm(block, axis=1, keepdims=True)
    array.flush()
    best = np.full((NUM_QUERIES, K), -np.inf, dtype=np.float32)
    for start in range(0, rows, 65_536):
        block = array[start : min(start + 65_536, rows)]
        scores, _ = faiss.knn(array[rows:], block, min(K, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        best = np.sort(np.concatenate([best, scores], axis=1), axis=1)[:, -K:]
    np.save(truth, best[:, :1])


def load(rows: int, scratch: Path) -> tuple[Any, Any]:
    """Return vectors, memory-mapped, and queries."""
    array = np.load(scratch / f"vectors-{rows}.npy", mmap_mode="r")
    return array[:rows], np.ascontiguousarray(array[rows:])


def peak() -> float:
    """Return the most memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def build_ours(kind: str, rows: int, scratch: Path) -> dict[str, Any]:
    """Build with ctxembed; what tuning and measuring took is told apart from the rest."""
    vectors, _ = load(rows, scratch)
    shutil.rmtree(scratch / f"ours-{kind}-{rows}", ignore_errors=True)
    spent = 0.0

    def timed(function: Any) -> Any:
        def run(*args: Any) -> Any:
            nonlocal spent
            begun = time.perf_counter()
            try:
                return function(*args)
            finally:
                spent += time.perf_counter() - begun

        return run

    for name in ("true_neighbours", "tune", "measure"):
        setattr(index_module, name, timed(getattr(index_module, name)))
    begun = time.perf_counter()
    built = VectorIndex.build(vectors, kind=kind, path=scratch / f"ours-{kind}-{rows}")
    seconds = time.perf_counter() - begun
    record = built.record
    disk = sum(file.bytes for file in record.files.values())
    return {
        "build_s": seconds - spent, "tune_and_measure_s": spent, "peak_mib": peak(), "factory": record.factory,
        "parameters": dict(record.parameters), "bytes_per_row": record.bytes_per_row, "disk_bytes_per_row": disk / rows,
        "own_measured": record.measured and record.measured.recall,
    }  # fmt: skip


def build_bare(kind: str, rows: int, scratch: Path) -> dict[str, Any]:
    """Build the same with FAISS alone, from the same sample size, and write it."""
    record = VectorIndex.open(scratch / f"ours-{kind}-{rows}").record
    vectors, _ = load(rows, scratch)
    begun = time.perf_counter()
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(DIMENSION, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.index_factory(DIMENSION, record.factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        prepare_training(index, seed=1)
        size = plan_index(rows, DIMENSION, IndexOptions(kind=kind)).training_rows
        index.train(vectors[np.sort(np.random.default_rng(2).choice(rows, size, replace=False))])
    for start in range(0, rows, 65_536):
        index.add(np.ascontiguousarray(vectors[start : start + 65_536]))
    if kind.startswith("ivf"):  # the exact vectors, as ctxembed has them beside
        exact = faiss.IndexFlatIP(DIMENSION)
        exact.add(np.ascontiguousarray(vectors))
        faiss.write_index(exact, str(scratch / f"exact-{rows}.faiss"))
    faiss.write_index(index, str(scratch / f"bare-{kind}-{rows}.faiss"))
    return {"build_s": time.perf_counter() - begun, "peak_mib": peak()}


def search_both(kind: str, rows: int, scratch: Path) -> dict[str, Any]:
    """Search both in turns."""
    _, queries = load(rows, scratch)
    begun = time.perf_counter()
    ours = VectorIndex.open(scratch / f"ours-{kind}-{rows}")
    opened = time.perf_counter() - begun
    index = bare = faiss.read_index(str(scratch / f"bare-{kind}-{rows}.faiss"))
    parameters = dict(ours.record.parameters)
    if kind.startswith("ivf"):
        faiss.extract_index_ivf(index).nprobe = parameters["nprobe"]
        exact = faiss.read_index(str(scratch / f"exact-{rows}.faiss"))
        bare = faiss.IndexRefine(index, exact)
        bare.k_factor = parameters["k_factor"]
    elif kind == "hnsw":
        index.hnsw.efSearch = parameters["efSearch"]
    threshold = np.load(scratch / f"truth-{rows}.npy")
    systems = {"ours": lambda q: ours.search(q, K), "bare": lambda q: bare.search(q, K)}
    found: dict[str, Any] = {"open_ms": opened * 1000}
    singles, batch = 300, queries
    if kind == "flat":
        singles, batch = 30, queries[: max(50, COMPARED // rows)]
    times: dict[str, dict[str, list[float]]] = {name: {"one": [], "many": []} for name in systems}
    for name, search in systems.items():  # once, so that what is memory-mapped is in memory
        scores, _ = search(queries)
        found[f"{name}_recall"] = float((scores >= threshold - 1e-5).mean())
    for _ in range(ROUNDS):
        for name, search in systems.items():
            begun = time.perf_counter()
            search(batch)
            times[name]["many"].append((time.perf_counter() - begun) / len(batch))
        for query in queries[:singles]:
            for name, search in systems.items():
                begun = time.perf_counter()
                search(query[None])
                times[name]["one"].append(time.perf_counter() - begun)
    for name in systems:
        found |= {f"{name}_{how}_qps": 1 / float(np.median(times[name][how])) for how in ("one", "many")}
    for how in ("one", "many"):
        found[f"{how}_time_ratio"] = float(np.median(np.divide(times["ours"][how], times["bare"][how])))
    return found


def main() -> None:
    """Measure every kind and write what was found after each step."""
    rows, out, scratch = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    scratch.mkdir(parents=True, exist_ok=True)
    make_vectors(rows, scratch)
    done = json.loads(out.read_text(encoding="utf-8"))["results"] if out.exists() else []
    results = {each["kind"]: each for each in done}
    for kind in sys.argv[4:] or [each for each in KINDS if each != "hnsw" or rows <= HNSW_ROWS]:
        parts = results.setdefault(kind, {"kind": kind})
        if "search_both" in parts:
            continue
        if not (scratch / f"bare-{kind}-{rows}.faiss").exists():  # begun elsewhere, or never
            parts.clear()
            parts["kind"] = kind
        for step in (build_ours, build_bare, search_both):
            if step.__name__ in parts:
                continue
            command = [sys.executable, __file__, "step", step.__name__, kind, str(rows), str(scratch)]
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            parts[step.__name__] = json.loads(found)
            sys.stderr.write(f"{kind} {step.__name__} {found}")
            measured = [each for each in results.values() if len(each) > 1]
            write_json(out, {"rows": rows, "dimension": DIMENSION, "k": K, "vectors": __doc__, "threads": faiss.omp_get_max_threads(),
                             "environment": environment(), "results": measured})  # fmt: skip
        shutil.rmtree(scratch / f"ours-{kind}-{rows}")
        (scratch / f"bare-{kind}-{rows}.faiss").unlink()


if __name__ == "__main__":
    if sys.argv[1] == "step":
        step = {each.__name__: each for each in (build_ours, build_bare, search_both)}[sys.argv[2]]
        sys.stdout.write(json.dumps(step(sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))) + "\n")
    else:
        main()
