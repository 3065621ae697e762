"""Which kind of vector index fits: from rows, width, memory and the recall that is asked for; no vector is touched.

- flat: every vector is compared; exact.
- hnsw: a graph of near neighbours (Malkov and Yashunin 2016) over the exact vectors; fastest to search, slow to build.
- ivf-sq8: vectors in lists around k-means centroids, a byte for each dimension.
- ivf-pq: the same with product-quantized codes (Jegou et al. 2011), a byte for eight dimensions.
- any other name is a FAISS factory string, such as ``OPQ48,IVF4096,PQ48x4fs``.

The last three keep the exact vectors in a file beside, memory-mapped; the candidates they find are ranked again by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from ctxembed.errors import InvalidInputError

Storage: TypeAlias = Literal["float32", "float16"]

KINDS = ("auto", "flat", "hnsw", "ivf-sq8", "ivf-pq")
FLAT_VALUES = 20_000_000
"""Rows times width up to which `auto` compares every vector: some 10 ms a query on one core."""
HNSW_ROWS = 250_000
"""Rows up to which `auto` builds a graph; beyond it takes many minutes on two cores."""
HNSW_LINKS = 32
TRAINING_ROWS = 50
"""Rows of the training sample for each list."""
CENTROIDS = 256
"""Of each part of a product quantizer."""
ITERATIONS = 10
"""Of k-means, for lists and for product quantizers."""


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """What is asked of a vector index."""

    kind: str = "auto"
    """One of ``KINDS``, or a FAISS factory string."""
    min_recall: float = 0.95
    """The share of the true ten nearest rows to find, in (0, 1]; an approximate index is tuned until it does."""
    max_memory: int | None = None
    """Bytes that searching may keep in memory; files that are only looked into (exact vectors beside) do not count."""
    storage: Storage = "float32"
    """How exact vectors are kept."""
    seed: int = 1
    """Decides the training sample and the rows that recall is measured on."""

    def __post_init__(self) -> None:
        if not 0 < self.min_recall <= 1:
            raise InvalidInputError(f"min_recall is {self.min_recall}, need more than 0 and at most 1, such as 0.95")
        if self.max_memory is not None and self.max_memory < 1:
            raise InvalidInputError(f"max_memory is {self.max_memory} bytes, need at least 1")
        if self.storage not in get_args(Storage):
            raise InvalidInputError(f"storage is {self.storage!r}: use one of {', '.join(get_args(Storage))}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How an index will be built."""

    kind: str
    """Never ``auto``; a factory string stands for itself."""
    factory: str
    """What FAISS calls it."""
    rows: int
    dimension: int
    training_rows: int
    """Rows of the seeded sample; 0 where nothing is learned."""
    memory: int | None
    """Bytes that searching will keep in memory, as far as that is known beforehand."""
    disk: int | None
    """Bytes of its files, exact vectors included."""
    reason: str


def plan_index(rows: int, dimension: int, options: IndexOptions) -> Plan:
    """Decide how to index N rows of width D.

    Raises:
        InvalidInputError: If nothing fits into the memory, or the kind that is asked for does not.
    """
    plan = _wanted(rows, dimension, options)
    if not _is_within(plan, options.max_memory):
        smallest = _plan("ivf-pq", rows, dimension, options, "").memory
        raise InvalidInputError(
            f"{plan.kind} needs {plan.memory:,} bytes of memory for {rows:,} rows of width {dimension}, the limit is "
            f"{options.max_memory:,}: allow more, or take a smaller kind (ivf-pq needs {smallest:,})"
        )
    return plan


def fits(rows: int, dimension: int, options: IndexOptions) -> bool:
    """Tell whether ``plan_index`` finds a kind within the memory."""
    return _is_within(_wanted(rows, dimension, options), options.max_memory)


def _wanted(rows: int, dimension: int, options: IndexOptions) -> Plan:
    if rows < 2:
        chosen, reason = "flat", "nothing can be learned from fewer than two rows"
    elif options.kind != "auto":
        chosen, reason = options.kind, "asked for"
    else:
        chosen, reason = _choose(rows, dimension, options)
    return _plan(chosen, rows, dimension, options, reason)


def _is_within(plan: Plan, limit: int | None) -> bool:
    return limit is None or plan.memory is None or plan.memory <= limit


def _choose(rows: int, dimension: int, options: IndexOptions) -> tuple[str, str]:
    def fits(kind: str) -> bool:
        memory = _plan(kind, rows, dimension, options, "").memory
        return options.max_memory is None or (memory is not None and memory <= options.max_memory)

    if options.min_recall == 1:
        return "flat", "only comparing every vector finds all of the nearest"
    if rows * dimension <= FLAT_VALUES and fits("flat"):
        return "flat", "few enough to compare every vector"
    if rows <= HNSW_ROWS and fits("hnsw"):
        return "hnsw", f"at most {HNSW_ROWS:,} rows, and the graph fits into memory"
    if fits("ivf-sq8"):
        return "ivf-sq8", "a byte for each dimension fits into memory"
    return "ivf-pq", "nothing larger fits into memory"


def _plan(kind: str, rows: int, dimension: int, options: IndexOptions, reason: str) -> Plan:
    exact = rows * dimension * (4 if options.storage == "float32" else 2)
    lists = num_lists(rows)
    training = min(rows, max(TRAINING_ROWS * lists, 2 * TRAINING_ROWS * CENTROIDS))
    centroids = lists * dimension * 4
    codes: int | None
    if kind == "flat":
        factory, codes, memory, training = "Flat", 0, exact, 0
    elif kind == "hnsw":
        factory, codes, training = f"HNSW{HNSW_LINKS}", rows * (8 * HNSW_LINKS + 24), 0
        memory = exact + codes
    elif kind == "ivf-sq8":
        factory, codes = f"IVF{lists},SQ8", rows * (dimension + 8) + centroids
        memory = codes
    elif kind == "ivf-pq":
        parts, bits = num_parts(dimension), "" if training >= CENTROIDS else f"x{max(1, rows.bit_length() - 1)}"
        factory = f"IVF{lists},PQ{parts}{bits}np"
        codes = rows * (parts + 8) + centroids + CENTROIDS * dimension * 4
        memory = codes
    else:
        return Plan(
            kind=kind, factory=kind, rows=rows, dimension=dimension, training_rows=min(rows, 200_000),
            memory=None, disk=None, reason=reason,
        )  # fmt: skip
    return Plan(
        kind=kind, factory=factory, rows=rows, dimension=dimension, training_rows=training,
        memory=memory, disk=exact + codes, reason=reason,
    )  # fmt: skip


def num_lists(rows: int) -> int:
    """Return a power of two near four times the square root of the rows, with at least 39 rows for each list."""
    wanted = max(1, min(4 * rows**0.5, rows / 39))
    return 1 << (int(wanted).bit_length() - 1)


def num_parts(dimension: int) -> int:
    """Return how many parts a product quantizer cuts D dimensions into: the most that have eight or more each."""
    return max((parts for parts in range(1, dimension // 8 + 1) if dimension % parts == 0), default=1)
