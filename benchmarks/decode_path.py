"""python -m benchmarks.decode_path: the functions that one decode step of nano runs through.

Counts what a reader of a step must follow: calls of functions that are defined in `gsr_engine` and
`csrc_triton`, by file, over one step in which every stream decodes a token and none needs a page.
It uses the engine's public names only, so that it also runs over another version of the tree.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table

import csrc_triton
import gsr_engine
from gsr_engine import Engine, SamplingParams
from gsr_engine.demo.report import NANO

ROOTS = [Path(package.__file__ or "").parent for package in (gsr_engine, csrc_triton)]
_PROMPTS, _SIBLINGS = 4, 4
_PROMPT_TOKENS = 20
_STEPS_BEFORE = 8
"""Decode steps before the measured one; all of them fit into one page of 16 tokens."""


@dataclass(frozen=True, slots=True)
class DecodePath:
    """Calls by (file, function) in one step; a file is named from its package on."""

    calls: Counter[tuple[str, str]]

    @property
    def files(self) -> list[str]:
        """The files, in the order in which the step reaches them."""
        return list(dict.fromkeys(file for file, _ in self.calls))

    def functions(self, file: str) -> list[str]:
        """A file's functions, in the order in which the step reaches them."""
        return [name for other, name in self.calls if other == file]


def decode_path(temperature: float) -> DecodePath:
    """The path of one step of 16 streams that only decode."""
    params = SamplingParams(
        n=_SIBLINGS, temperature=temperature, max_tokens=64, ignore_eos=True, seed=0
    )
    with Engine.from_pretrained(NANO, dtype="float32") as engine:
        for index in range(_PROMPTS):
            prompt = [10 + index] * _PROMPT_TOKENS
            engine.submit(engine.new_generate(prompt, params, index=index))
        for _ in range(1 + _STEPS_BEFORE):
            engine.step()
        calls = _calls_of_step(engine)
    return DecodePath(calls)


def _calls_of_step(engine: Engine) -> Counter[tuple[str, str]]:
    calls: Counter[tuple[str, str]] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        # A comprehension or a generator expression is a part of the function that it stands in.
        if event != "call" or (code.co_name.startswith("<") and code.co_name != "<lambda>"):
            return
        file = Path(code.co_filename)
        for root in ROOTS:
            if file.is_relative_to(root):
                calls[str(file.relative_to(root.parent)), code.co_qualname] += 1

    sys.setprofile(note)
    try:
        engine.step()
    finally:
        sys.setprofile(None)
    return calls


def show(console: Console, title: str, path: DecodePath) -> None:
    """One line for each file, and the sums."""
    table = Table(title=title, title_justify="left")
    for column in ("file", "functions", "calls", "names"):
        table.add_column(column, justify="right" if column in ("functions", "calls") else "left")
    for file in path.files:
        names = path.functions(file)
        calls = sum(path.calls[file, name] for name in names)
        table.add_row(file, str(len(names)), str(calls), ", ".join(names))
    table.add_section()
    table.add_row(f"{len(path.files)} files", str(len(path.calls)), str(path.calls.total()))
    console.print(table)


def main() -> None:
    """Print the path of a greedy step and of a sampled one."""
    console = Console()
    console = Console(width=max(console.width, 120))
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        show(console, f"a decode step, {name}", decode_path(temperature))


if __name__ == "__main__":
    main()
