"""Compiled once, kept in a folder of the user; nothing breaks where that is impossible."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from csrc_triton.cpu import compiler
from csrc_triton.cpu.compiler import CannotCompile, compiled, library_file

NO_ZIG = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "ziglang" else find(name, *rest)
"""


def python(code: str, cache: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A fresh process with its own folder of compiled kernels."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "GSR_CACHE": str(cache), "HF_HUB_OFFLINE": "1", **env},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_importing_compiles_nothing(tmp_path: Path) -> None:
    done = python("import csrc_triton, gsr_engine; gsr_engine.Engine", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "cache").exists()


def test_the_first_start_compiles_and_says_so_and_the_second_does_not(tmp_path: Path) -> None:
    said = "note: compiling the CPU kernels for float32"
    code = """
        import sys
        from gsr_engine.cli import main
        sys.argv = "gsr generate 1 --max-tokens 2 --seed 1 --dtype float32".split()
        main()
    """
    first, second = (python(code, tmp_path / "cache") for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr
    assert first.stderr.count(said) == 1
    assert said not in second.stderr
    assert first.stdout == second.stdout
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".so"]


@pytest.mark.parametrize("cc", ["no-such-compiler", "false"])
def test_without_a_compiler_everything_runs_with_one_warning(tmp_path: Path, cc: str) -> None:
    code = f"""
        import warnings
        from gsr_engine import Engine, SamplingParams
        from gsr_engine.demo.report import NANO
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                with Engine.from_pretrained(NANO, dtype="float32") as engine:
                    params = SamplingParams(max_tokens=4, seed=1)
                    print(engine.generate(["1+1="], params)[0].completions)
        about = [str(w.message) for w in caught if "CPU kernels" in str(w.message)]
        assert len(about) == 1 and "many times slower" in about[0], about
        assert "{cc}" in about[0] or "no C compiler" in about[0], about
    """
    done = python(NO_ZIG + textwrap.dedent(code), tmp_path / "cache", CC=cc)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second


def test_a_folder_that_cannot_be_written_to_is_replaced_until_the_process_ends(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    code = """
        from csrc_triton.cpu.compiler import compiled, library_file
        kept = compiled("float32")
        assert kept.name == library_file("float32").name
        assert list(kept.parent.iterdir()) == [kept]  # the compiler's own files are gone
        print(kept)
    """
    done = python(code, tmp_path / "file/cache", TMPDIR=str(tmp_path / "temporary"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "temporary"))
    assert not list((tmp_path / "temporary").iterdir())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that only makes the file."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        Path(command[command.index("-o") + 1]).touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.usefixtures("quick")
def test_a_user_without_a_home_gets_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("GSR_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert compiled("float32").parent.parent == tmp_path
    monkeypatch.setenv("GSR_CACHE", str(tmp_path / "named"))
    assert compiled("float32") == library_file("float32")
    assert library_file("float32").parent == tmp_path / "named"


@pytest.mark.usefixtures("quick")
def test_a_home_that_cannot_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exists = Path.exists

    def refused(path: Path) -> bool:
        if path.suffix == ".so":
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", refused)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert compiled("float32").parent.parent == tmp_path


def test_a_compiler_with_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("CC", f"{sys.executable} -x")
    assert compiler.compiler()[:2] == (sys.executable, "-x")


def test_other_sources_and_dtypes_have_other_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = library_file("float32").name
    assert library_file("bfloat16").name != before
    shutil.copytree(compiler.SOURCES, tmp_path / "sources")
    monkeypatch.setattr(compiler, "SOURCES", tmp_path / "sources")
    assert library_file("float32").name == before
    (tmp_path / "sources/norm.c").write_text("int broken = ;\n")
    assert library_file("float32").name != before
    monkeypatch.setenv("GSR_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CannotCompile, match="expected"):
        compiled("float32")
    assert not list((tmp_path / "cache").iterdir())


def test_the_cache_follows_the_users_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GSR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert compiler.cache_folder() == Path("/somewhere/gsr-engine")


@pytest.mark.parametrize("damage", [b"", b"not a library"])
def test_a_damaged_file_is_compiled_again(
    damage: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GSR_CACHE", str(tmp_path))
    library_file("float32").write_bytes(damage)
    done = python(
        "import torch, csrc_triton; assert csrc_triton.has_cpu_kernels(torch.float32)", tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert library_file("float32").stat().st_size > 10_000
