"""Tasks by name: built-in ones, families of reasoning-gym, Python files, and entry points."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import entry_points
from pathlib import Path

from benchmarks.tasks.data_sets import AIME24, AIME25, AMC, FILE, MATH500, OLYMPIAD
from benchmarks.tasks.gym import PREFIX, gym_task
from benchmarks.tasks.knights import KNIGHTS
from benchmarks.tasks.puzzles import PUZZLES
from benchmarks.tasks.task import Task
from gsr_engine.errors import InvalidRequest

GROUP = "gsr_engine.tasks"
"""The group of entry points that other packages name their tasks in."""
_BUILT_IN: tuple[Task, ...] = (PUZZLES, AIME24, AIME25, AMC, MATH500, OLYMPIAD, KNIGHTS, FILE)
TASKS = {task.name: task for task in _BUILT_IN}


def find_task(name: str) -> Task:
    """A task by its name.

    Args:
        name: a built-in one; "gym:FAMILY"; a path that ends in .py, whose `TASK` it is; or an entry
            point of the group "gsr_engine.tasks".

    Raises:
        InvalidRequest: there is none, or what was found is no task.
    """
    if name in TASKS:
        return TASKS[name]
    if name.startswith(PREFIX):
        return gym_task(name.removeprefix(PREFIX))
    if name.endswith(".py"):
        return _checked(name, _of_file(Path(name)))
    found = {one.name: one for one in entry_points(group=GROUP)}
    if name in found:
        return _checked(name, found[name].load())
    every = ", ".join([*TASKS, f"{PREFIX}FAMILY", "FILE.py", *found])
    raise InvalidRequest("task", f"must be one of {every}; got {name!r}")


def _of_file(path: Path) -> object:
    if not path.is_file():
        raise InvalidRequest("task", f"there is no {path}")
    spec = importlib.util.spec_from_file_location(f"{path.stem} of --task", path)
    if spec is None or spec.loader is None:
        raise InvalidRequest("task", f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up the types of their fields
    spec.loader.exec_module(module)
    return getattr(module, "TASK", None)


def _checked(name: str, task: object) -> Task:
    if isinstance(task, type) or not isinstance(task, Task):
        raise InvalidRequest("task", f"{name} holds no task with name, version, load and grader")
    return task
