"""Several blocks computed at a time, each on its share of the threads.

Between two products a layer has work that one thread does, and a thread that waits for others to finish their part is
idle. Blocks have nothing to do with each other, so with one to a thread nobody waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Block = TypeVar("Block")
Result = TypeVar("Result")


def in_turns(
    compute: Callable[[Block], Result], blocks: Sequence[Block], *, share: Callable[[], int]
) -> Iterator[Result]:
    """Yield what is computed of each block, in their order.

    Args:
        compute: Called once for each block, from several threads at a time.
        blocks: Of about equal size, but for the last.
        share: Says how many of torch's threads a block may have; asked for if there are several blocks.
    """
    threads = torch.get_num_threads()
    ways = threads // share() if len(blocks) > 1 else 1
    # Those left over, and the last, which is seldom full, are computed by all threads together.
    shared = (len(blocks) - 1) // ways * ways if ways > 1 else 0
    if shared:
        pool = ThreadPoolExecutor(ways, initializer=torch.set_num_threads, initargs=(threads // ways,))
        waiting: deque[Future[Result]] = deque()
        try:
            for block in blocks[:shared]:
                waiting.append(pool.submit(compute, block))
                if len(waiting) > 2 * ways:  # results are taken as they come: memory does not grow with the blocks
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # threads that begin later take the number that was set last
    for block in blocks[shared:]:
        yield compute(block)
