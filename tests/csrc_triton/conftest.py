"""Kernel tests (test_kernels_*.py) need a GPU, or Triton's interpreter.

TRITON_INTERPRET must be set before triton is first imported, and other tests of the session may
have imported it. So on a machine without a GPU these files are not collected here:
test_interpreter.py runs them in a separate process. By hand:

    TRITON_INTERPRET=1 python -m pytest tests/csrc_triton
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

collect_ignore_glob = [] if INTERPRETED or torch.cuda.is_available() else ["test_kernels_*"]


@pytest.fixture
def device() -> str:
    """The device that the kernels run on."""
    return "cpu" if INTERPRETED else "cuda"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # In the interpreter bf16 is silently garbage: tl.dot multiplies bit patterns.
    if "dtype" in metafunc.fixturenames:
        chip_only = [] if INTERPRETED else [torch.bfloat16]
        metafunc.parametrize("dtype", [torch.float32, torch.float16, *chip_only], ids=str)
