"""Build the wheel, install it where the checkout is out of sight, and run its demo there.

A wheel that passes is left in `dist/`. With the path of a wheel, that one is checked instead.

The fresh environment borrows torch and the other dependencies of the one that runs this script, so
nothing large is installed twice.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command, fail loudly, return what it printed."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(away: Path) -> Path:
    """The wheel of the checkout."""
    command = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", away)
    run(*command, ROOT, cwd=away)
    (wheel,) = away.glob("gsr_engine-*.whl")
    return wheel


def main() -> None:
    """Build, install, run, keep."""
    with tempfile.TemporaryDirectory() as folder:
        away = Path(folder)
        wheel = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else build(away)
        venv.create(away / "env", with_pip=True)
        python = away / "env" / "bin" / "python"
        purelib = run(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=away
        )
        # What a .pth file names is searched, but its own .pth files (the checkout) are not read.
        borrowed = sysconfig.get_path("purelib")
        (Path(purelib.strip()) / "borrowed.pth").write_text(f"{borrowed}\n")
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=away)
        where = run(python, "-c", "import gsr_engine; print(gsr_engine.__file__)", cwd=away)
        if not where.startswith(str(away)):
            raise SystemExit(f"not the installed wheel: {where}")
        gsr = away / "env" / "bin" / "gsr"
        report = json.loads(run(gsr, "demo", "--puzzles", "64", "--json", cwd=away))
        refined = report["selfRef@4"]
        if not all(accuracy > report["pass@1"] for accuracy in refined.values()):
            raise SystemExit(f"the demo of the wheel does not refine: {report}")
        if wheel.parent == away:
            kept = ROOT / "dist" / wheel.name
            kept.parent.mkdir(exist_ok=True)
            shutil.copy(wheel, kept)
        print(f"wheel: {wheel.name}, pass@1 {report['pass@1']:.3f}, selfRef@4 {refined}")


if __name__ == "__main__":
    main()
