"""Nobody reaches into a private name of another module: `python tests/check_private_names.py`.

A name with one leading underscore belongs to the module that defines it. Reported are imports of
such a name, attributes `x._name`, and strings that name it (`setattr(x, "_name", ...)`) in any
other module of this repository, tests and benchmarks among them. Names that only foreign packages
define are not looked at.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLOORS = ("csrc_triton", "gsr_engine", "train", "benchmarks", "tests")
NAMED_TUPLE = {"_replace", "_asdict", "_fields", "_make"}
PATCHERS = {"setattr", "getattr", "delattr", "hasattr", "patch", "object", "watch"}


def is_private(name: str) -> bool:
    """One leading underscore, and something behind it."""
    return name.startswith("_") and not name.startswith("__") and name not in {"_", *NAMED_TUPLE}


def definitions(tree: ast.Module) -> set[str]:
    """Private names that a module defines: at its top, in its classes, on `self`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                names.add(node.attr)
    return {name for name in names if is_private(name)}


def uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, private name) wherever a module names one that may be another's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(FLOORS):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else ""
            if (name or getattr(function, "id", "")) in PATCHERS:
                for argument in node.args:
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        yield node.lineno, argument.value.rpartition(".")[2]


def main() -> int:
    """Print every finding; 1 if there is one."""
    files = sorted(file for floor in FLOORS for file in (ROOT / floor).rglob("*.py"))
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}
    defined = {file: definitions(tree) for file, tree in trees.items()}
    ours = set[str]().union(*defined.values())
    found = 0
    for file, tree in trees.items():
        for line, name in uses(tree):
            if is_private(name) and name in ours - defined[file]:
                print(f"{file.relative_to(ROOT)}:{line}: {name} is private to another module")
                found += 1
    print(f"private names: {len(files)} files, {found} reach-ins")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
