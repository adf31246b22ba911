"""python -m train.recipe: a whole recipe, from problems to accuracy, one command after another.

    python -m train.recipe gsr-7b           run the stages that are not done yet
    python -m train.recipe gsr-7b --show    print the commands, to run them by hand or in a queue

A recipe is a TOML file. Its table [stages] names the commands in order, as the words after
`python -m`. The table with a stage's name holds the options of its command, by their own names. A
recipe can name a `base`, another recipe in the same folder; its values then override the base's,
table by table. The table [expected] is for `train.sft --dry-run`.

A stage that succeeded leaves a stamp beside its `out`. The stamp is a hash of the options of this
stage and of all stages before it, so a stage runs again if any of them changed. The generator,
the trainer and the accuracy run then ask for another `out`, because two runs must not be mixed.
Stages that two recipes share run once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from gsr_engine.errors import InvalidRequest
from train.command import log, run_command
from train.files import read_toml

RECIPES = Path(__file__).parent / "recipes"
_TRAINER = "train.sft"
_LAST = {_TRAINER: "model", "benchmarks.accuracy": "run.json"}
"""Of commands that fill a folder step by step: what is in it when they are finished."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One command of a recipe.

    Attributes:
        name: of the stage.
        words: the words after `python -m`.
        options: options of the command, by name; `out` is where its result goes.
        key: hash of words and options of this stage and of all stages before it.
    """

    name: str
    words: tuple[str, ...]
    options: dict[str, Any]
    key: str

    def command(self, ranks: int) -> list[str]:
        """The command line; with several ranks torchrun starts the trainer once for each."""
        launcher = [sys.executable]
        if self.words[0] == _TRAINER and ranks > 1:
            # Without an address the ranks look for this host's name, which may have none.
            host = ("--standalone", "--local-addr=127.0.0.1")
            run = ("-m", "torch.distributed.run", *host, f"--nproc-per-node={ranks}")
            launcher += run
        flags = [flag for name, value in self.options.items() for flag in _flags(name, value)]
        return [*launcher, "-m", *self.words, *flags]

    @property
    def result(self) -> Path:
        """The path that exists when the stage is finished, and not before."""
        return Path(self.options["out"], _LAST.get(self.words[0], ""))

    @property
    def is_done(self) -> bool:
        """Whether it succeeded with these options, after stages with the same options."""
        stamp = self._stamp
        return self.result.exists() and stamp.exists() and stamp.read_text() == self.key

    def mark_done(self) -> None:
        """Leave the stamp."""
        self._stamp.write_text(self.key)

    @property
    def _stamp(self) -> Path:
        out = Path(self.options["out"])
        return out.with_name(f"{out.name}.done")


def _flags(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    values = value if isinstance(value, list) else [value]
    return [f"--{flag}", *map(str, values)]


def find_recipe(name: str) -> Path:
    """The file of a recipe, from its path or from the name of a shipped recipe.

    Raises:
        InvalidRequest: there is no such recipe.
    """
    for path in (Path(name), RECIPES / f"{name}.toml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
    raise InvalidRequest("recipe", f"{name} is not a file, and none of {known}")


def read_recipe(path: Path) -> list[Stage]:
    """The stages of a recipe, in order.

    Raises:
        InvalidRequest: the file is not a recipe; the message names the table.
    """
    tables = _tables(path)
    commands = tables.pop("stages", None)
    if not commands:
        raise InvalidRequest("stages", f"{path} says nothing of them")
    tables.pop("expected", None)
    if strangers := tables.keys() - commands.keys():
        raise InvalidRequest("stages", f"{path} has a table for {min(strangers)}, which is none")
    stages, key = [], ""
    for name, words in commands.items():
        options = tables.get(name, {})
        if "out" not in options:
            raise InvalidRequest(name, f"must have an `out` in {path}")
        text = json.dumps([key, words, options], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        stages.append(Stage(name, tuple(words.split()), options, key))
    return stages


def _tables(path: Path) -> dict[str, dict[str, Any]]:
    own = read_toml(path)
    base = own.pop("base", None)
    tables = _tables(path.parent / base) if base else {}
    for name, values in own.items():
        if not isinstance(values, dict):
            raise InvalidRequest(name, f"must be a table in {path}")
        tables[name] = {**tables.get(name, {}), **values}
    return tables


def choose(stages: Sequence[Stage], names: Sequence[str]) -> list[Stage]:
    """The stages with these names, in the recipe's order; without names all stages.

    Raises:
        InvalidRequest: no stage has one of the names.
    """
    known = [stage.name for stage in stages]
    for name in names:
        if name not in known:
            raise InvalidRequest("stage", f"must be one of {', '.join(known)}, got {name}")
    return [stage for stage in stages if stage.name in names or not names]


def run_stage(stage: Stage, ranks: int) -> int:
    """Run its command, and leave the stamp if it finished; returns the exit status.

    A command that saved its work on a signal may exit with status 0. The stage is not finished
    then, so the status is 1.
    """
    status = _call(stage.command(ranks))
    if status == 0 and stage.result.exists():
        stage.mark_done()
        return 0
    return status or 1


def _call(command: Sequence[str]) -> int:
    """The exit status of a command. Signals are passed on to it, and it decides when it ends."""
    # torchrun waits 30 seconds for its ranks; a step and a checkpoint of a large model take longer.
    environment = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "900", **os.environ}
    with subprocess.Popen(command, env=environment) as process:  # noqa: S603  # what it is for
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            while True:
                try:
                    status = process.wait()
                except KeyboardInterrupt:  # the terminal signals the command, too
                    continue
                return status if status >= 0 else 128 - status
        finally:
            signal.signal(signal.SIGTERM, before)


def main(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped recipe.")],
    stage: Annotated[
        list[str] | None, typer.Option(help="Only this stage; may be given several times.")
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Processes that train; default: one for each GPU.")
    ] = None,
    show: Annotated[bool, typer.Option(help="Print the commands and what is done; no more.")] = (
        False
    ),
) -> None:
    """Run the stages of a recipe that are not done yet."""
    wanted = choose(read_recipe(find_recipe(recipe)), stage or [])
    ranks = ranks or max(1, torch.cuda.device_count())
    say = print if show else log.info
    for one in wanted:
        done = one.is_done
        say(f"# {one.name}{': done' if done else ''}")
        if show or not done:
            say(shlex.join(one.command(ranks)))
        if show or done:
            continue
        start = time.perf_counter()
        if status := run_stage(one, ranks):
            say(f"# {one.name}: not finished; the same command goes on")
            raise typer.Exit(status)
        say(f"# {one.name}: done in {time.perf_counter() - start:,.0f} s")


if __name__ == "__main__":
    run_command("recipe", lambda: typer.run(main))
