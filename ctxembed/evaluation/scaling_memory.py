"""How much memory reading and training need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ctxembed.evaluation.scaling_models import Seq2Seq, denoising_loss
from ctxembed.runtime import release_memory
from ctxembed.training.objectives.denoise import DenoiseBatch

MEBIBYTE = 2**20
_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def peak_of(call: Callable[[], object]) -> float | None:
    """Return the MiB that a call needs at its peak beyond what was held before; None where the system does not tell."""
    release_memory()
    with torch.inference_mode():
        try:
            _RESET.write_text("5", encoding="ascii")  # the high-water mark begins anew
            before = _high_water()
            call()
            return max(0.0, (_high_water() - before) / 1024)
        except OSError:
            return None


def _high_water() -> int:
    """Return the most KiB of memory held since the mark was reset."""
    line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def kept_for_gradient(model: Seq2Seq, batch: DenoiseBatch) -> float:
    """Return the MiB that one training step keeps between its forward and its backward pass, parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss, _ = denoising_loss(model, batch)
    total = sum(kept.values())
    del loss
    return total / MEBIBYTE
