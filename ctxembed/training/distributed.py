"""More than one process: who writes, whose gradients are added, and how rows meet across processes.

Started by torchrun, which tells each process its rank by environment variables; without it there is
one process and everything here does nothing. Letters: N rows of one process, M of all, D width.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist


def rank() -> int:
    """The number of this process, 0 to ``world_size() - 1``; only 0 writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, for as long as the block lasts; alone, do nothing.

    gloo connects CPUs and nccl GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    # While the first process tokenises or fills a cache, the others wait: longer than the few minutes usual in steps.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=24))
    try:
        yield
        dist.barrier()  # the first process answers the others until the end: nobody leaves while one still asks
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Put the rows of all processes below one another; gradients flow back to each row's own process.

    Args:
        rows: (N, D); N may differ from process to process.

    Returns:
        (M, D) in the order of ranks, the same in every process, and the place of this process's first row.
    """
    if world_size() == 1:
        return rows, 0
    lengths = torch.zeros(world_size(), dtype=torch.int64, device=rows.device)
    lengths[rank()] = len(rows)
    dist.all_reduce(lengths)
    counts: list[int] = lengths.tolist()
    together: Tensor = _GatherRows.apply(rows, counts)  # type: ignore[no-untyped-call]
    return together, sum(counts[: rank()])


class _GatherRows(torch.autograd.Function):
    """Concatenation over processes; its gradient is each row's sum over them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = torch.cat((rows, rows.new_zeros(max(counts) - len(rows), *rows.shape[1:])))
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        summed = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        first = sum(ctx.counts[: rank()])
        return summed[first : first + ctx.counts[rank()]], None


def total(value: float, device: torch.device) -> float:
    """Return the sum of a number over all processes."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.item()


def from_first(value: float, device: torch.device) -> float:
    """Return the first process's number in every process: clocks differ, decisions must not."""
    return total(value if rank() == 0 else 0.0, device)


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over all processes; every parameter must have one."""
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def mean_metrics(metrics: Mapping[str, float], count: int) -> dict[str, float]:
    """Average metrics over all processes, each weighed by how many terms it averaged."""
    if world_size() == 1:
        return dict(metrics)
    everyone: list[tuple[Mapping[str, float], int]] = [({}, 0)] * world_size()
    dist.all_gather_object(everyone, (dict(metrics), count))
    return weighted_means([each for each, _ in everyone], [weight for _, weight in everyone])


def weighted_means(results: Sequence[Mapping[str, float]], weights: Sequence[float]) -> dict[str, float]:
    """Average each metric over the results that have it, weighed; equally where all their weights are zero.

    >>> weighted_means([{"loss": 1.0}, {"loss": 4.0, "accuracy": 0.5}], [2, 1])
    {'loss': 2.0, 'accuracy': 0.5}
    """
    means = {}
    for name in dict.fromkeys(name for result in results for name in result):
        known = [(result[name], weight) for result, weight in zip(results, weights, strict=True) if name in result]
        values, counts = zip(*known, strict=True)
        means[name] = float(np.average(values, weights=counts if any(counts) else None))
    return means
