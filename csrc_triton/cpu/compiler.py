"""Compiles the C sources of this folder for this machine, and keeps the result.

The compiler is clang out of the package `ziglang`, or else the system's `cc`. The result's name
holds a hash of everything that it depends on, so nothing old is ever loaded, and several versions
lie side by side. A folder that cannot be used is replaced by a temporary one, until the process
ends.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

_log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent
DTYPES = {"float32": (), "bfloat16": ("-DBFLOAT16",)}
"""The dtypes that the sources are compiled for, and what defines them."""
# Rules for NaN and infinity stay those of IEEE: without them a compiler drops tests for NaN.
_FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-shared")
_ENDS_AFTER = 300  # seconds


class CannotCompile(Exception):
    """There is no compiler, or it failed; says which and why."""


def cache_folder() -> Path:
    """Where compiled kernels are kept: `GSR_CACHE`, or gsr-engine in the user's cache folder.

    Raises:
        OSError: no such folder is named, and the user has no home.
    """
    named, base = os.environ.get("GSR_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(named or Path(base or Path.home() / ".cache") / "gsr-engine")
    except RuntimeError as reason:  # a container's user without a name
        raise FileNotFoundError(str(reason)) from None


def library_file(dtype: str) -> Path:
    """Where the shared library for a dtype is kept, if the folder can be written to.

    Raises:
        OSError: see `cache_folder`.
    """
    return cache_folder() / _name(dtype)


def _name(dtype: str) -> str:
    return f"kernels-{dtype}-{_digest(dtype)}.so"


def compiled(dtype: str) -> Path:
    """The shared library for a dtype ("float32" or "bfloat16"); compiled if it is not there.

    Raises:
        CannotCompile: there is no compiler, or it failed.
    """
    try:
        file = library_file(dtype)
        if file.exists():
            return file
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.mkdtemp(dir=file.parent)
    except OSError:
        folder = tempfile.mkdtemp(prefix="gsr-engine-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        file = Path(folder) / _name(dtype)
        scratch = tempfile.mkdtemp(dir=folder)
    _log.info("compiling the CPU kernels for %s, once on this machine (seconds)", dtype)
    try:
        fresh = Path(scratch) / "fresh.so"
        _compile(dtype, fresh)
        os.replace(fresh, file)  # another process may have been faster, with the same result
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return file


def compiler() -> tuple[str, ...]:
    """The command of the compiler, up to the flag that makes it compile for this machine.

    Raises:
        CannotCompile: there is none.
    """
    packaged = importlib.util.find_spec("ziglang")
    if packaged is not None and packaged.origin is not None:
        return str(Path(packaged.origin).with_name("zig")), "cc", "-mcpu=native"
    command, *options = os.environ.get("CC", "").split() or ["cc"]  # "ccache gcc" is usual
    system = shutil.which(command)
    if system is None:
        raise CannotCompile("no C compiler: `pip install ziglang`, or install clang or gcc")
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    return system, *options, "-march=native" if is_x86 else "-mcpu=native"


def _compile(dtype: str, target: Path) -> None:
    sources = sorted(map(str, SOURCES.glob("*.c")))
    command = [*compiler(), *_FLAGS, *DTYPES[dtype], "-o", str(target), *sources]
    # zig keeps files between its calls; here they are of no use to anybody.
    scratch = {name: str(target.parent / "zig") for name in _ZIG_FOLDERS}
    try:
        done = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ENDS_AFTER,
            env={**os.environ, **scratch},
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotCompile(f"{command[0]}: {error}") from None
    if done.returncode:
        raise CannotCompile(f"{command[0]} failed: {done.stderr.strip()[-500:]}")


_ZIG_FOLDERS = ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")


def _digest(dtype: str) -> str:
    parts = [*_FLAGS, dtype, _chip(), *_compiler_version()]
    for source in sorted(SOURCES.glob("*.[ch]")):
        parts += [source.name, source.read_text(encoding="utf-8")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _chip() -> str:
    """What the machine can execute: a folder may be shared by machines that differ in this."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return f"{platform.machine()} {platform.processor()} {platform.platform()}"
    lines = info.read_text(encoding="utf-8").splitlines()
    first = lines[: lines.index("") if "" in lines else None]
    names = ("flags", "Features", "model", "CPU part", "CPU implementer")
    return "\n".join(line for line in first if line.partition("\t")[0].strip(" :") in names)


def _compiler_version() -> tuple[str, ...]:
    try:
        return (*compiler(), importlib.metadata.version("ziglang"))
    except importlib.metadata.PackageNotFoundError:
        return compiler()
    except CannotCompile as reason:
        return (str(reason),)
