"""Benchmark tasks: what they load, whom they believe, and how bad input is named."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import datasets
import pytest

import gsr_engine
from benchmarks.tasks import registry
from benchmarks.tasks.gym import ANY, GymGrader, gym_task
from benchmarks.tasks.gym_scorer import gym_puzzles
from benchmarks.tasks.registry import TASKS, find_task
from benchmarks.tasks.task import Source, Task
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.errors import InvalidRequest

EXTENDING = (Path(gsr_engine.__file__).parent / "EXTENDING.md").read_text()
ROW = {"problem": "1+1", "answer": "2"}
KNIGHTS = "(1) Zoey is a knave\n(2) Oliver is a knight"


def rows(folder: Path, *lines: dict[str, Any] | str) -> str:
    file = folder / "rows.jsonl"
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    file.write_text("".join(f"{text}\n" for text in texts))
    return str(file)


def test_every_built_in_task_is_one_and_is_found_by_its_name() -> None:
    assert {"puzzles", "aime24", "aime25", "amc22-23", "math500", "olympiadbench", "kk"} < {*TASKS}
    for name, task in TASKS.items():
        assert isinstance(task, Task)
        assert find_task(name) is task
        assert task.name == name


@pytest.mark.parametrize(
    ("name", "row", "hub", "expected"),
    [
        ("aime24", {"id": 60, **ROW, "year": "2024"}, ["HuggingFaceH4/aime_2024"], ("60", "2", "")),
        ("aime25", {"id": "0", **ROW}, ["math-ai/aime25"], ("0", "2", "")),
        ("amc22-23", {"id": 0, **ROW, "answer": 2.0}, ["AI-MO/aimo-validation-amc"], None),
        (
            "math500",
            {**ROW, "unique_id": "test/a/1.json", "level": 3},
            ["HuggingFaceH4/MATH-500"],
            ("test/a/1.json", "2", "3"),
        ),
        (
            "olympiadbench",
            {"id": 7, "question": "1+1", "final_answer": ["2", "3"]},
            ["math-ai/olympiadbench"],
            ("7", "2, 3", ""),
        ),
        (
            "kk",
            {"quiz": "Who?", "solution_text_format": KNIGHTS, "solution": [False, True]},
            ["K-and-K/knights-and-knaves", "test"],
            None,
        ),
    ],
)
def test_the_hubs_own_columns_become_problems(
    name: str,
    row: dict[str, Any],
    hub: list[str],
    expected: tuple[str, str, str] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = Mock(return_value=datasets.Dataset.from_list([row]))
    monkeypatch.setattr(datasets, "load_dataset", opened)
    (problem,) = find_task(name).load(Source())
    assert list(opened.call_args.args) == hub
    assert problem.error == ""
    if expected is not None:
        assert (problem.id, problem.gold, problem.size) == expected
    elif name == "amc22-23":
        assert problem.gold == "2"
    else:
        assert (problem.gold, problem.size) == (KNIGHTS, "2 people")
        assert problem.text.startswith("Who?\n\nState everyone's role")


def test_a_local_copy_takes_the_place_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", Mock(side_effect=AssertionError))
    lines = [{"id": f"row-{i}", "problem": f"{i}+1", "answer": i + 1, "level": i} for i in range(5)]
    data = rows(tmp_path, *lines)
    for name in ("math500", "olympiadbench", "file"):
        problems = find_task(name).load(Source(data=data, count=3))
        assert [one.id for one in problems] == ["row-0", "row-1", "row-2"]
        assert {one.size for one in problems} == {""}
    by_level = find_task("math500").load(Source(data=data, size_field="level"))
    assert [one.size for one in by_level] == ["0", "1", "2", "3", "4"]


def test_knights_are_grouped_by_people_and_graded_in_any_form(tmp_path: Path) -> None:
    task = find_task("kk")
    (one,) = task.load(Source(data=rows(tmp_path, {"problem": "Who?", "answer": KNIGHTS})))
    assert one.size == "2 people"
    with task.grader(GsrConfig()) as grader:
        assert grader.correct("Oliver is a knight, Zoey is a knave", one.gold)
        assert not grader.correct("Oliver is a knave, Zoey is a knave", one.gold)
    (one,) = task.load(Source(data=rows(tmp_path, {"problem": "Who?", "answer": "Zoey"})))
    assert "does not say who is a knight and who is a knave: Zoey" in one.error


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"id": 1, **ROW}, {"id": 2, **ROW}, {"id": 1, **ROW}], r"line 1 and .* line 3 .* id 1"),
        ([], "holds no problems"),
        (["not json"], "line 1: "),
        ([{"question": "1+1", "answer": "2"}], r"line 1: there is no 'problem', but 'question'"),
        ([{"problem": "1+1"}], r"line 1: there is no 'answer', but 'problem'"),
    ],
)
def test_bad_files_are_named_by_line(tmp_path: Path, lines: list[Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        find_task("aime24").load(Source(data=rows(tmp_path, *lines)))
    assert caught.value.field == "data"


def test_a_row_without_an_answer_is_left_out_by_its_line(tmp_path: Path) -> None:
    data = rows(tmp_path, {"id": "a", **ROW}, {"id": "b", **ROW, "answer": " "}, {"answer": "1"})
    good, empty, lacking = find_task("file").load(Source(data=data))
    assert not good.error
    assert empty.error == f"{data} line 2 has no answer"
    assert (lacking.id, "there is no 'problem'" in lacking.error) == (f"{data} line 3", True)


def test_puzzles_are_the_first_of_their_stream_and_take_no_data() -> None:
    few, more = (find_task("puzzles").load(Source(count=count, seed=2)) for count in (3, 5))
    assert more[:3] == few
    assert len({one.id for one in more}) == 5
    for source in (Source(data="a.jsonl"), Source(size_field="level"), Source(columns={"id": "x"})):
        with pytest.raises(InvalidRequest, match="puzzles makes its problems"):
            find_task("puzzles").load(source)
    with pytest.raises(InvalidRequest, match="needs a file"):
        find_task("file").load(Source())


@pytest.fixture(scope="module")
def scorer() -> Iterator[GymGrader]:
    pytest.importorskip("reasoning_gym")
    with GymGrader(timeout=4) as grader:
        yield grader


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["chain_sum", "countdown", "maze", "knights_knaves", "word_sorting"]
)
def test_families_of_reasoning_gym_grade_by_their_own_scorers(
    family: str, scorer: GymGrader
) -> None:
    problems = find_task(f"gym:{family}").load(Source(count=6, seed=1))
    assert len({one.id for one in problems}) == 6
    assert problems == find_task(f"gym:{family}").load(Source(count=6, seed=1))
    for one, other in pairwise(problems):
        assert scorer.correct(str(one.gold), one.gold)
        assert not scorer.correct(None, one.gold)
        if str(one.gold) != str(other.gold):
            assert not scorer.correct(str(other.gold), one.gold)


@pytest.mark.slow
def test_a_gym_answer_is_judged_by_its_puzzle_and_not_by_its_gold(scorer: GymGrader) -> None:
    """A family that states no answer accepts any that solves the puzzle, and no other."""
    first, second = gym_task("graph_color").load(Source(count=2))
    assert str(first.gold) == str(second.gold) == ANY
    edges = [pair.split(",") for pair in re.findall(r"\((\d+, \d+)\)", first.text)]
    colours: dict[str, str] = {}
    for vertex in re.findall(r"\d+", first.text.split("Vertices:")[1].split("\n")[0]):
        taken = {
            colours.get(other.strip())
            for pair in edges
            for other in pair
            if vertex in [one.strip() for one in pair]
        }
        colours[vertex] = next(one for one in "123" if one not in taken)
    answer = json.dumps({vertex: int(colour) for vertex, colour in colours.items()})
    assert scorer.correct(answer, first.gold)
    assert not scorer.correct(answer, second.gold)
    with pytest.raises(TypeError, match="come from its task's"):
        scorer.correct(answer, ANY)


@pytest.mark.slow
def test_a_family_that_follows_hash_seeds_is_graded_by_the_puzzles_that_were_asked(
    scorer: GymGrader,
) -> None:
    """The letters of its puzzles follow the order of a set, which no two processes share."""
    task, source = gym_task("ransom_note"), Source(count=12)
    problems = task.load(source)
    assert all(scorer.correct(str(one.gold), one.gold) for one in problems)
    gym_puzzles.cache_clear()  # made again, in another process
    assert task.load(source) == problems


@pytest.mark.slow
def test_a_hostile_answer_is_wrong(scorer: GymGrader) -> None:
    """The last one that asks: it costs the worker its life."""
    (one,) = gym_task("countdown").load(Source(count=1))
    assert scorer.correct(str(one.gold), one.gold)
    assert not scorer.correct("9**9**9**9**9", one.gold)


def test_gym_problems_are_grouped_by_a_name_of_their_metadata() -> None:
    pytest.importorskip("reasoning_gym")
    problems = gym_task("chain_sum").load(Source(count=4, size_field="num_terms"))
    assert all(re.fullmatch(r"num_terms \d", one.size) for one in problems)
    with pytest.raises(InvalidRequest, match=r"size_field: must be one of .*num_terms.*; got 'no'"):
        gym_task("chain_sum").load(Source(size_field="no"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aime23", r"must be one of puzzles, aime24, .*gym:FAMILY, FILE\.py.*; got 'aime23'"),
        ("no/task.py", r"there is no no/task\.py"),
    ],
)
def test_what_is_no_task_is_named(name: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        find_task(name)
    assert caught.value.field == "task"


@pytest.mark.parametrize("family", ["nothing", "composite"])
def test_what_is_no_family_is_named(family: str) -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(InvalidRequest, match=f"gym:{family}: the families are .*chain_sum"):
        find_task(f"gym:{family}")


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.tasks.gym.find_spec", lambda name: None)
    with pytest.raises(InvalidRequest, match=r"task: needs reasoning-gym: pip install .*\[gym\]"):
        find_task("gym:chain_sum")


def test_the_task_that_the_page_shows_runs(tmp_path: Path) -> None:
    found = re.search(r"```python\n(\"\"\"Roman.*?)```", EXTENDING, re.DOTALL)
    assert found
    file = tmp_path / "roman.py"
    file.write_text(found[1])
    task = find_task(str(file))
    problems = task.load(Source(count=20, seed=3))
    assert len(problems) == len({one.id for one in problems}) == 20
    with task.grader(GsrConfig()) as grader:
        for one, other in pairwise(problems):
            assert grader.correct(one.gold.lower(), one.gold)
            assert not grader.correct(None, one.gold)
            assert grader.correct(other.gold, one.gold) is (one.gold == other.gold)


def test_a_task_may_be_a_dataclass_with_postponed_annotations(tmp_path: Path) -> None:
    file = tmp_path / "json.py"  # hides no module of that name
    file.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from benchmarks.tasks.puzzles import Puzzles\n"
        "@dataclass(frozen=True)\n"
        "class Mine(Puzzles):\n"
        "    name: str = 'mine'\n"
        "TASK = Mine()\n"
    )
    assert find_task(str(file)).name == "mine"
    assert sys.modules["json"] is json
    file.write_text(file.read_text().replace("Mine()", "Mine"))
    with pytest.raises(InvalidRequest, match="holds no task"):  # a class of tasks
        find_task(str(file))


def test_other_packages_name_tasks_in_their_entry_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_tasks.py").write_text(
        "from benchmarks.tasks.puzzles import PUZZLES as GOOD\nBAD = 5\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = [
        EntryPoint(name, f"their_tasks:{value}", registry.GROUP)
        for name, value in (("theirs", "GOOD"), ("broken", "BAD"))
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: found)
    assert find_task("theirs") is TASKS["puzzles"]
    with pytest.raises(InvalidRequest, match="broken holds no task with name, version"):
        find_task("broken")
    with pytest.raises(InvalidRequest, match="theirs, broken; got 'other'"):
        find_task("other")
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(InvalidRequest, match=r"empty\.py holds no task"):
        find_task(str(empty))
