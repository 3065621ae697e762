"""Measure each kind of index beside bare FAISS with the same parameters: python index_kinds.py ROWS OUT SCRATCH [KIND...].

Vectors are synthetic: unit vectors of width 384 around ROWS / 100 centres, from a seeded generator; so are the 1,000
queries. Every build runs in a process of its own, which tells its peak memory. Then one process opens both indexes
and searches them in turns, so that a noisy machine is equally noisy to both.
"""

from __future__ import annotations

import json
import resource
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
from ctxembed.index.kinds import HNSW_LINKS
from ctxembed.runtime import environment, write_json

DIMENSION, NUM_QUERIES, K, ROUNDS = 384, 1000, 10, 5
KINDS = ("flat", "hnsw", "ivf-sq8", "ivf-pq")


def make_vectors(rows: int, scratch: Path) -> None:
    """Write vectors and queries, unless they are there."""
    path = scratch / f"vectors-{rows}.npy"
    if path.exists():
        return
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((max(10, rows // 100), DIMENSION), dtype=np.float32)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows + NUM_QUERIES, DIMENSION))
    for start in range(0, len(array), 10_000):
        size = min(10_000, len(array) - start)
        block = centres[rng.integers(0, len(centres), size)] + rng.standard_normal((size, DIMENSION), dtype=np.float32)
        array[start : start + size] = block / np.linalg.norm(block, axis=1, keepdims=True)
    array.flush()


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
        from ctxembed.index.kinds import IndexOptions, plan_index

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
    flat = VectorIndex.open(scratch / f"ours-flat-{rows}")
    threshold = flat.search(queries, K).scores[:, -1:]
    systems = {"ours": lambda q: ours.search(q, K), "bare": lambda q: bare.search(q, K)}
    found: dict[str, Any] = {"open_ms": opened * 1000}
    singles = 30 if kind == "flat" else 300
    times: dict[str, dict[str, list[float]]] = {name: {"one": [], "many": []} for name in systems}
    for name, search in systems.items():  # once, so that what is memory-mapped is in memory
        scores, _ = search(queries)
        found[f"{name}_recall"] = float((scores >= threshold - 1e-5).mean())
    for _ in range(ROUNDS):
        for name, search in systems.items():
            begun = time.perf_counter()
            search(queries)
            times[name]["many"].append((time.perf_counter() - begun) / len(queries))
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
    """Measure every kind and write what was found after each."""
    rows, out, scratch = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    scratch.mkdir(parents=True, exist_ok=True)
    make_vectors(rows, scratch)
    results = []
    for kind in sys.argv[4:] or KINDS:
        parts = {}
        for step in (build_ours, build_bare, search_both):
            command = [sys.executable, __file__, "step", step.__name__, kind, str(rows), str(scratch)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            parts[step.__name__] = json.loads(done.stdout)
            sys.stderr.write(f"{kind} {step.__name__} {done.stdout}")
        results.append({"kind": kind, **parts})
        write_json(out, {"rows": rows, "dimension": DIMENSION, "k": K, "vectors": __doc__, "threads": faiss.omp_get_max_threads(),
                         "environment": environment(), "results": results})  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1] == "step":
        step = {each.__name__: each for each in (build_ours, build_bare, search_both)}[sys.argv[2]]
        sys.stdout.write(json.dumps(step(sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))) + "\n")
    else:
        main()
