"""The choice of device and number format, on machines that this one is not."""

from __future__ import annotations

import pytest
import torch

from ctxembed.errors import InvalidInputError
from ctxembed.model.device import choose_device, choose_dtype, is_bfloat16_fast


@pytest.mark.parametrize(("cuda", "mps", "best"), [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_is_the_best_device_there_is(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, best: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device().type == best


@pytest.mark.parametrize(
    ("device", "supported", "dtype"),
    [("cuda", True, torch.bfloat16), ("cuda", False, torch.float32), ("mps", True, torch.float32)],
)
def test_auto_is_bfloat16_on_gpus_that_have_it(
    monkeypatch: pytest.MonkeyPatch, device: str, supported: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    assert choose_dtype("auto", torch.device(device)) == dtype


@pytest.mark.parametrize(
    ("capability", "amx", "avx512", "fast"),
    [
        ("AVX512", True, False, True),
        ("AVX512", False, True, True),
        ("AVX512", False, False, False),
        ("AVX2", True, True, False),
        ("DEFAULT", False, False, False),
    ],
)
def test_auto_is_bfloat16_only_on_cpus_that_multiply_it(
    monkeypatch: pytest.MonkeyPatch, capability: str, amx: bool, avx512: bool, fast: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert is_bfloat16_fast(torch.device("cpu")) is fast
    assert choose_dtype("auto", torch.device("cpu")) == (torch.bfloat16 if fast else torch.float32)


def test_a_named_format_is_taken_whatever_the_machine() -> None:
    assert choose_dtype("bfloat16", torch.device("mps")) == torch.bfloat16
    assert choose_dtype("float32", torch.device("cuda")) == torch.float32


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InvalidInputError, match="device 'cuda' cannot be used here: choose auto, cpu, cuda or mps"):
        choose_device("cuda")
