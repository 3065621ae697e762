"""Training is compared bit for bit, so sums must always be added up in one order."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ctxembed.model.checkpoint import Checkpoint, load_checkpoint

WorkTogether = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def work_together(tmp_path_factory: pytest.TempPathFactory) -> WorkTogether:
    """Run a file as two processes that train together; it is given a folder for its results, which is returned."""

    def run(program: str) -> Path:
        folder = tmp_path_factory.mktemp("processes")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        shared["PYTHONFAULTHANDLER"] = "1"  # a process that ends by a signal says where
        processes = [
            subprocess.Popen([sys.executable, program, str(folder)], env={**os.environ, **shared, "RANK": rank})
            for rank in ("0", "1")
        ]
        try:
            codes = [process.wait(timeout=120) for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert codes == [0, 0]
        return folder

    return run


@pytest.fixture
def initial(tiny_model: Path) -> Checkpoint:
    """The model that further training starts from."""
    return load_checkpoint(tiny_model)
