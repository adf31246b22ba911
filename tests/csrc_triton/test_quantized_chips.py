"""Products in 8 bits with the instructions of older chips give the same bits."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from csrc_triton import dequantize_weight, quantize_weight, quantized_linear
from csrc_triton.cpu import compiler
from csrc_triton.cpu import quantized_linear as kernel
from csrc_triton.cpu.compiler import SOURCES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="for x86"),
]
FLAGS = ["-mcpu=x86_64_v4", "-mcpu=x86_64_v3", "-mcpu=x86_64"]
FUNCTIONS = {"quantize_weight": 8, "dequantize_weight": 8, "quantized_linear": 12}
"""How many arguments each takes."""
Results = list[tuple[torch.Tensor, torch.Tensor]]


def compiled_for(flag: str, folder: Path) -> SimpleNamespace:
    """The functions of this file's sources, compiled for a chip."""
    command, *options, native = compiler.compiler()
    flag = flag if native.startswith("-mcpu") else flag.replace("mcpu", "march").replace("_v", "-v")
    names = ("quantized_linear", "quantize", "product", "parallel")
    sources = [str(SOURCES / f"{name}.c") for name in names]
    target = folder / "kernels.so"
    flags = ["-std=gnu11", "-O1", "-ffp-contract=fast", "-fPIC", "-shared"]
    subprocess.run([command, *options, flag, *flags, "-o", target, *sources], check=True)
    loaded = ctypes.CDLL(str(target))
    functions = {name: getattr(loaded, name) for name in FUNCTIONS}
    for name, function in functions.items():
        function.argtypes = [ctypes.c_void_p] * FUNCTIONS[name]  # x86 passes a long as an address
    return SimpleNamespace(**functions)


def results() -> Results:
    """Products of all heights of tiles, odd shapes, and integers that saturate 16 bits in pairs."""
    generator = torch.Generator().manual_seed(3)
    found = []
    for rows, inputs, outputs, group in ((21, 70, 50, None), (8, 257, 33, 64), (5, 33, 100, 4)):
        x = torch.randint(-127, 128, (rows, inputs), generator=generator).float()
        weight = torch.randint(-127, 128, (outputs, inputs), generator=generator).float()
        x[:, :: group or inputs], weight[:, :: group or inputs] = 127.0, -127.0  # scales are 1
        x[0], weight[0], weight[1] = 127.0, 127.0, -127.0
        quantized = quantize_weight(weight, group=group)
        assert torch.equal(dequantize_weight(quantized), weight)
        for count in range(rows + 1):
            found.append((quantized_linear(x[:count], quantized, None), x[:count] @ weight.T))
    return found


@pytest.mark.parametrize("flag", FLAGS)
def test_sums_are_exact(flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supported = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if {"v4": "avx512bw", "v3": "avx2"}.get(flag[-2:], "") not in supported:
        pytest.skip("this chip cannot run it")
    kernels = compiled_for(flag, tmp_path)
    monkeypatch.setattr(kernel, "library", lambda _: kernels)
    for found, exact in results():
        assert torch.equal(found, exact)
