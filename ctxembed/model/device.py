"""Where and in which number format the network runs."""

from __future__ import annotations

import torch

from ctxembed.config import check
from ctxembed.errors import InvalidInputError

DEVICES = ("cpu", "cuda", "mps")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(name: str = "auto") -> torch.device:
    """Return the device named, or the best there is for ``auto``.

    Raises:
        InvalidInputError: If torch does not know the name or the machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    check(name.split(":")[0] in DEVICES, f"device {name!r} is unknown: choose auto, {', '.join(DEVICES)}")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidInputError(f"device {name!r} cannot be used here: choose auto, cpu, cuda or mps") from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the number format named; ``auto`` is bfloat16 where the hardware multiplies it faster, else float32.

    Raises:
        InvalidInputError: For an unknown name.
    """
    if name == "auto":
        return torch.bfloat16 if is_bfloat16_fast(device) else torch.float32
    if name not in DTYPES:
        raise InvalidInputError(f"dtype {name!r}: choose auto, {' or '.join(DTYPES)}")
    return DTYPES[name]


def is_bfloat16_fast(device: torch.device) -> bool:
    """Tell whether matrix products in bfloat16 have hardware support: AMX or AVX512-BF16, or a recent GPU."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu":
        return False
    capabilities = torch.backends.cpu.get_cpu_capability()
    if not capabilities.startswith("AVX512"):
        return False
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
