"""The package works without triton, and no kernel's module hides a public function."""

import subprocess
import sys
from pathlib import Path

import pytest

import csrc_triton

pytestmark = pytest.mark.slow

IMPORT = """
import sys
sys.modules["triton"] = None  # as if it were not installed
import torch, csrc_triton
print(csrc_triton.gated_activation(torch.zeros(1, 4), 'silu').shape)
"""


def test_the_package_works_without_triton():
    root = Path(csrc_triton.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", IMPORT], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[1, 2]" in done.stdout


def test_no_module_of_a_kernel_hides_a_public_function():
    # Importing a submodule sets it as an attribute of its package.
    modules = {path.stem for path in Path(csrc_triton.__file__).parent.glob("*.py")}
    assert modules.isdisjoint(csrc_triton.__all__)
