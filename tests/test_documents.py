"""The documents say what is there: files, links, commands, make targets, and code that runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gsr_engine.demo.report import NANO

ROOT = Path(__file__).parent.parent
FLOORS = ("csrc_triton", "gsr_engine", "train", "benchmarks")
READMES = [ROOT / floor / "README.md" for floor in FLOORS]
DOCUMENTS = sorted(
    {
        *READMES,
        *ROOT.glob("*.md"),
        *ROOT.glob(".github/**/*.md"),
        *(
            path
            for floor in FLOORS
            for path in (ROOT / floor).rglob("*.md")
            if "results" not in path.parts
        ),
    }
)
FILES = [
    path.relative_to(ROOT).as_posix()
    for folder in (*FLOORS, "tests")
    for path in (ROOT / folder).rglob("*.*")
    if path.suffix in (".py", ".toml")
]
documents = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix()
)


def file_names(text: str) -> list[str]:
    """Names of Python and TOML files that a text mentions, with the folders that stand before."""
    return re.findall(r"(?<![\w/.*-])[\w/-]+\.(?:py|toml)\b", text)


def code_blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.M | re.S)


def anchors(document: Path) -> Iterator[str]:
    """What `#...` may name: the headings, as GitHub spells them."""
    for title in re.findall(r"^#+ (.+)$", document.read_text(), re.M):
        yield re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_a_visitor_reads_the_first_page_whole() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("floor", FLOORS)
def test_every_file_is_named_in_its_packages_readme(floor: str) -> None:
    """As often as files have the name; a folder's `__main__.py` is its command."""
    named = Counter(
        name.split("/")[-1] for name in file_names((ROOT / floor / "README.md").read_text())
    )
    own = Counter(
        name.split("/")[-1]
        for name in FILES
        if name.startswith(f"{floor}/") and not name.endswith(("__init__.py", "__main__.py"))
    )
    assert not list(own - named)


@documents
def test_every_file_that_is_named_exists(document: Path) -> None:
    top_level = [path.name for path in ROOT.iterdir()]
    for name in file_names(document.read_text()):
        assert name in top_level or any(f"/{file}".endswith(f"/{name}") for file in FILES), name


@documents
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, ROOT / "Makefile"], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_commands_and_make_targets_exist(document: Path) -> None:
    text = document.read_text()
    for module in re.findall(rf"-m ((?:{'|'.join(FLOORS)}|tests)\b[\w.]*\w)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for path in re.findall(r"-m pytest ([\w/.]+)", text):
        assert (ROOT / path).exists(), path
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    for target in re.findall(r"(?:^ {4,}|`)make ([a-z][a-z-]*)", text, re.M):
        assert target in targets, target


def test_every_example_and_every_decision_is_listed() -> None:
    first_page = (ROOT / "README.md").read_text()
    for example in (ROOT / "tests" / "examples").iterdir():
        if not example.name.startswith(("__", "test_")):
            assert f"tests/examples/{example.name}" in first_page
    decisions = ROOT / "gsr_engine" / "decisions"
    for decision in decisions.glob("0*.md"):
        assert f"]({decision.name})" in (decisions / "README.md").read_text()


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(block, id=f"{document.relative_to(ROOT)}-{number}")
        for document in (ROOT / "README.md", ROOT / "gsr_engine" / "README.md")
        for number, block in enumerate(code_blocks(document, "python"), start=1)
    ],
)
def test_python_blocks_run(code: str) -> None:
    assert '"path-or-hub-id"' in code
    exec(code.replace('"path-or-hub-id"', repr(str(NANO))), {"__name__": "__main__"})  # noqa: S102
