"""How near embedding comes to what the machine can do: arithmetic done, arithmetic possible, and where the time goes.

Letters: N texts, T tokens of a window, R rows of a product, D hidden width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxembed.evaluation.peers import Contender
from ctxembed.windows import OVERLAP

if TYPE_CHECKING:
    from torch import Tensor, dtype

    from ctxembed.model.checkpoint import Checkpoint
    from ctxembed.model.encoder import TransformerEncoder

ROWS = 2048
"""Rows of the matrix products that measure the machine."""
SECONDS = 0.1
"""How long each shape is multiplied."""
PROFILED = 300
"""Most texts of the run under the profiler."""
OPERATIONS = 10
"""The largest in a profile; the rest is one entry."""


@dataclass(frozen=True, slots=True)
class Utilisation:
    """Where the time of one run over all texts goes."""

    tokenization_share: float
    """Of the wall time of encoding, in [0, 1]."""
    gigaflops: float
    """Arithmetic of the encoder by wall time of the whole encoding, tokenization included, in GFLOP/s."""
    machine_gigaflops: float
    """What matrix products of the model's shapes reach here, in the same number format, in GFLOP/s."""
    profile: tuple[tuple[str, float], ...]
    """Operations and their shares of the time without tokenization, the largest first."""


def measure_utilisation(
    checkpoint: Checkpoint, contender: Contender, calls: Sequence[Sequence[str]], rounds: NDArray[np.float64]
) -> Utilisation:
    """Set the time of our engine beside that of tokenization alone and of the machine's matrix products.

    Args:
        checkpoint: The model.
        contender: The way it was run.
        calls: The texts of each call of a round.
        rounds: Seconds of the rounds that were timed.
    """
    import torch

    tokenizer, encoder = checkpoint.tokenizer, checkpoint.encoder

    def tokenize(calls: Sequence[Sequence[str]]) -> None:
        for call in calls:
            tokenizer.encode_ids(call)

    def again() -> None:
        for call in few:
            contender.encode(call)

    few = [call[:: -(-len(call) // PROFILED)] for call in calls[:PROFILED]]
    seconds = float(np.median(rounds))
    lengths = [len(ids) for call in calls for ids in tokenizer.encode_ids(call)]
    windows = window_lengths(lengths, contender.limit - 2, whole=contender.whole)
    return Utilisation(
        tokenization_share=float(np.median(_call_seconds(lambda: tokenize(calls)))) / seconds,
        gigaflops=encoder_flops(encoder, windows) / seconds / 1e9,
        machine_gigaflops=machine_gigaflops(linear_shapes(encoder), getattr(torch, contender.precision)),
        profile=profile_run(again, without=float(np.median(_call_seconds(lambda: tokenize(few))))),
    )


def cpu_capability() -> dict[str, str | bool | int]:
    """Return what of the processor torch uses: vector instructions, bfloat16 products, threads."""
    import torch

    return {
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "amx": bool(torch.cpu._is_amx_tile_supported()),
        "avx512_bf16": bool(torch.cpu._is_avx512_bf16_supported()),
        "threads": torch.get_num_threads(),
    }


def window_lengths(lengths: Sequence[int], width: int, *, whole: bool) -> NDArray[np.int64]:
    """Return the tokens of every window that is computed, special tokens included.

    Args:
        lengths: Tokens of each text, without special tokens.
        width: Most of them in a window.
        whole: Long texts are read to their end in overlapping windows; else they are cut.

    >>> window_lengths([5, 20, 0], 8, whole=True).tolist(), window_lengths([5, 20, 0], 8, whole=False).tolist()
    ([7, 10, 10, 10], [7, 10])
    """
    windows: list[int] = []
    step = width - width // OVERLAP
    for length in lengths:
        count = max(0, -(-(length - width) // step)) if whole else 0
        windows += [min(length, width) + 2] * (count + 1) * (length > 0)
    return np.array(windows, dtype=np.int64)


def encoder_flops(encoder: TransformerEncoder, windows: NDArray[np.int64]) -> float:
    """Return the floating-point operations of encoding windows of so many tokens (N,).

    A multiplication with its addition counts as two, in linear layers and in the two products of attention.
    """
    return 2.0 * linear_weights(encoder) * float(windows.sum()) + _attention_flops(encoder, windows)


def linear_weights(encoder: TransformerEncoder) -> int:
    """Return the number of weights of the linear layers: each multiplies once a token."""
    return sum(rows * columns for rows, columns in linear_shapes(encoder)) * encoder.config.num_layers


def linear_shapes(encoder: TransformerEncoder) -> list[tuple[int, int]]:
    """Return the (inputs, outputs) of a layer's linear maps, queries, keys and values as one."""
    config = encoder.config
    width, inner, gates = config.hidden_size, config.intermediate_size, 1 if config.feed_forward == "gelu" else 2
    return [(width, 3 * width), (width, width), (width, gates * inner), (inner, width)]


def _attention_flops(encoder: TransformerEncoder, windows: NDArray[np.int64]) -> float:
    squares = float((windows.astype(np.float64) ** 2).sum())
    return 4.0 * squares * encoder.config.hidden_size * encoder.config.num_layers


def machine_gigaflops(shapes: Sequence[tuple[int, int]], number_format: dtype) -> float:
    """Multiply matrices of these shapes, ROWS rows at a time, on the CPU, and return GFLOP/s over all of them.

    It is a limit, so for each shape the fastest call counts, of torch's plain product and of oneDNN's with weights laid
    out beforehand.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    flops = seconds = 0.0
    with torch.inference_mode():
        for inputs, outputs in shapes:
            rows = torch.randn(ROWS, inputs, generator=generator).to(number_format)
            weight = torch.randn(outputs, inputs, generator=generator).to(number_format)
            flops += 2.0 * ROWS * inputs * outputs
            seconds += min(min(_call_seconds(product)) for product in _products(rows, weight))
    return flops / seconds / 1e9


def _products(rows: Tensor, weight: Tensor) -> list[Callable[[], Tensor]]:
    import torch

    products: list[Callable[[], Tensor]] = [lambda: torch.nn.functional.linear(rows, weight)]
    names = ("_linear_pointwise", "_reorder_linear_weight")
    if torch._C._has_mkldnn and all(hasattr(torch.ops.mkldnn, name) for name in names):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], "none"))
    return products


def _call_seconds(run: Callable[[], object]) -> list[float]:
    """Call something for SECONDS, after once to warm up, and return the time of each call."""
    run()
    times: list[float] = []
    while sum(times) < SECONDS:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def profile_run(run: Callable[[], object], *, without: float) -> tuple[tuple[str, float], ...]:
    """Run something under torch's profiler, on one thread, and return operations with their shares of the time.

    Args:
        run: What to run.
        without: Seconds of it that are known already and left out, those of tokenization.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # blocks that are computed side by side would be left out
    run()  # what one thread finds out once is no part of it
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        start = time.perf_counter()
        run()
        total = time.perf_counter() - start - without
    torch.set_num_threads(threads)
    times = {event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}
    return shares(times, total, most=OPERATIONS)


def shares(times: Mapping[str, float], total: float, *, most: int) -> tuple[tuple[str, float], ...]:
    """Return the largest times as shares of a total, then all other entries, then what no entry accounts for.

    >>> shares({"a": 1.0, "b": 6.0, "c": 1.0}, 10.0, most=1)
    (('b', 0.6), ('other operations', 0.2), ('Python and numpy', 0.2))
    """
    total = max(total, sum(times.values()))
    names = sorted(times, key=times.__getitem__, reverse=True)
    kept = [(name, times[name]) for name in names[:most]]
    other = sum(times[name] for name in names[most:])
    rest = max(0.0, total - sum(times.values()))
    entries = [*kept, ("other operations", other), ("Python and numpy", rest)]
    return tuple((name, round(seconds / total, 4)) for name, seconds in entries) if total > 0 else ()
