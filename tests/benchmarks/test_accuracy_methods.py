"""From options to methods, and what each method is given to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy.__main__ import AccuracyCommand
from benchmarks.accuracy.config import AccuracyConfig
from benchmarks.accuracy.pools import Pools, corrupted, foreign_of, given_to, truncated
from benchmarks.accuracy.refusals import refused_problems
from benchmarks.samples.method import Method
from benchmarks.tasks.task import BenchmarkProblem
from gsr_engine import InvalidRequest
from gsr_engine.params import LAYOUTS
from gsr_engine.text.answers import find_answer
from tests.helpers.accuracy_runs import EVERY
from tests.helpers.runs import GOLD, answer_of, solution
from train.options import parse_options


def names(**options: Any) -> list[str]:
    return [one.name for one in AccuracyConfig(**options).chosen_methods(LAYOUTS)]


def test_the_methods_of_a_run() -> None:
    assert names(k="1,4", layouts="linear") == [
        "greedy",
        "selfref linear@1",
        "selfref linear@4",
        "selfref linear@4 T=1",
    ]
    every = names(k="2,4,8", methods=EVERY, pools="weak:.25;foreign:1", widths="8,2", orders=1)
    assert len(set(every)) == len(every)
    assert {
        "fusion@4",
        "repeated branched@4",
        "rounds linear 4x8x2x1",
        "orders linear@4 #1",
        "views branched@4",
        "mixed linear@4 weak .25",
        "mixed branched@4 foreign 1.00",
    } <= set(every)
    assert AccuracyConfig(k="1,2").headline == 2


@pytest.mark.parametrize(
    ("refused", "options"),
    [
        ("k: must be candidate counts", {"k": "four"}),
        ("k: must be an integer from 1 to 256", {"k": "300"}),
        ("layout: must be one of linear, branched", {"layouts": "spiral"}),
        ("methods: must be one of greedy, selfref, ", {"methods": "greedy,self"}),
        ("methods: orders are other orders than selfref's", {"methods": "orders"}),
        ("methods: orders needs the linear layout", {"methods": "selfref,orders", "k": "1"}),
        ("methods: views shows whole candidates", {"methods": "views", "view": "full"}),
        ("widths: is for the method rounds", {"widths": "4"}),
        ("subset: is for the method rounds", {"subset": 2}),
        ("orders: is for the method orders", {"orders": 2}),
        ("pools: is for the method mixed", {"pools": "weak:.5"}),
        ("orders: must be an integer from 1 to 3", {"methods": "selfref,orders", "orders": 4}),
        ("widths: must be refinements", {"methods": "rounds", "widths": "a"}),
        ("subset: must be an integer from 1 to 4", {"methods": "rounds", "subset": 0}),
        ("pools: must be POOL:SHARE", {"methods": "mixed", "pools": "own:.5"}),
        ("pools: must have numbers", {"methods": "mixed", "pools": "weak:1.2.3"}),
        ("pools: a share must be of whole candid", {"methods": "mixed", "pools": "weak:.3"}),
        ("repeats: must be at least 1", {"repeats": 0}),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(refused: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=refused):
        AccuracyConfig(**options)


def test_options_stand_once_and_bad_ones_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--k", "4,1", "--max-tokens", "16384", "--layouts", "linear", "--task", "aime24"]
    command = parse_options("x", AccuracyCommand, "", words)
    assert (command.ks, command.headline, command.max_tokens) == ((1, 4), 4, 16384)
    assert command.chosen_layouts(("branched",)) == ("linear",)
    assert AccuracyCommand().chosen_layouts(("branched",)) == ("branched",)
    assert AccuracyCommand().find_task().name == "puzzles"
    assert AccuracyCommand(data="x.jsonl").find_task().name == "file"
    with pytest.raises(InvalidRequest, match="limit: must be at least 1, got 0"):
        AccuracyCommand(limit=0)
    with pytest.raises(SystemExit):
        parse_options("x", AccuracyCommand, "", ["--help"])
    printed = capsys.readouterr().out
    flags = ("task", "size-field", "limit", "seed", "dtype", "out", "run", "model", "view", "k")
    for flag in (*flags, "methods", "repeats", "pools", "resume", "top-p", "summary-tokens"):
        assert f"--{flag}" in printed


@pytest.mark.parametrize(
    ("refused", "options"),
    [
        ("task: is for a run to do", {"run": Path("x"), "task": "aime24"}),
        ("resume: is for a run to do", {"run": Path("x"), "resume": True}),
        ("concurrency: is for a server", {"concurrency": 3}),
        ("dtype: is for the engine", {"endpoint": "x", "model": "m", "dtype": "float32"}),
        ("summary_tokens: is for the eng", {"endpoint": "x", "model": "m", "summary_tokens": 9}),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(refused: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=refused):
        AccuracyCommand(**options)
    AccuracyCommand(endpoint="x", model="m", refiner="r", dtype="float32", concurrency=3)


@pytest.mark.parametrize(
    ("k", "shares", "names"),
    [
        ("3", ".3333333,.33333333", [".33"]),
        ("256", ".01171875,.015625", [".012", ".016"]),
    ],
)
def test_each_share_has_one_method_of_its_own(k: str, shares: str, names: list[str]) -> None:
    config = AccuracyConfig(k=k, methods="mixed", pools=f"foreign:{shares}")
    methods = config.chosen_methods(("linear",))
    assert [one.name.split()[-1] for one in methods] == names


def right(answer: str) -> bool:
    return answer == GOLD


def mixed(pool: str, share: float) -> Method:
    values: dict[str, Any] = {"pool": pool, "share": share}
    return Method(name="m", kind="mixed", layout="linear", k=4, **values)


def test_a_mixed_pool_replaces_the_last_candidates() -> None:
    own = [solution(answer) for answer in ("7", "3", "7", "4")]
    foreign = [solution(answer) for answer in ("11", "12", "13", "14")]
    pools = Pools(own, weak=[solution(None)] * 4, foreign=foreign)
    read = given_to(mixed("foreign", 0.5), pools, right)
    assert [one.solution.answer for one in read] == ["7", "3", "13", "14"]
    assert [one.pool for one in read] == ["own", "own", "foreign", "foreign"]
    assert [one.number for one in read] == [0, 1, 2, 3]
    read = given_to(mixed("weak", 0.25), pools, right)
    assert [one.solution.answer for one in read] == ["7", "3", "7", None]
    read = given_to(mixed("corrupted", 1.0), pools, right)
    assert [one.solution.answer for one in read] == ["3", "4", "3", "3"]
    assert all(find_answer(one.solution.text) == one.solution.answer for one in read)
    read = given_to(mixed("foreign", 1.0), Pools(own), right)
    assert [one.pool for one in read] == ["own"] * 4  # there is no other problem
    read = given_to(mixed("corrupted", 1.0), Pools([solution("7"), solution(None)]), right)
    assert [one.pool for one in read] == ["own"] * 2  # nobody states another answer


def test_orders_put_each_candidate_in_each_place_once() -> None:
    own = [solution(str(number)) for number in range(4)]
    plain = answer_of("selfref linear@4", "7", used=[2, 0, 3, 1])
    orders = [
        [
            one.number
            for one in given_to(
                Method(name="o", kind="orders", layout="linear", k=4, order=order),
                Pools(own),
                right,
                plain,
            )
        ]
        for order in range(4)
    ]
    assert orders[0] == plain.used
    assert [set(places) for places in zip(*orders, strict=True)] == [{0, 1, 2, 3}] * 4


def test_half_a_candidate_states_nothing() -> None:
    half = truncated(solution("7", text="so \\boxed{7}", token_ids=[1, 2, 3, 4, 5]))
    assert (half.token_ids, half.text, half.answer) == ([1, 2], "so \\bo", None)


@given(st.integers(0, 99), st.lists(st.integers(0, 99), max_size=4), st.text(max_size=20))
def test_a_corrupted_candidate_states_a_wrong_answer_throughout(
    answer: int, others: list[int], before: str
) -> None:
    text = f"{before} {answer} and so \\boxed{{{answer}}}"
    spoiled = corrupted(
        solution(str(answer), text=text), [str(one) for one in others], lambda one: one == "7"
    )
    wrong = [str(one) for one in others if one not in (7, answer)]
    assert (spoiled.answer if spoiled else None) == (wrong[0] if wrong else None)
    if spoiled is not None:
        assert find_answer(spoiled.text) == spoiled.answer
        assert f" {answer} and" not in spoiled.text
        assert spoiled.token_ids == []


def test_no_part_of_another_number_is_replaced() -> None:
    one = solution("7", text="17 and 7.5 and x7 are not 7, so \\boxed{7}. 7")
    spoiled = corrupted(one, ["8"], right)
    assert spoiled is not None
    assert spoiled.text == "17 and 7.5 and x7 are not 8, so \\boxed{8}. 8"
    assert corrupted(solution("7", text="it is seven"), ["8"], right) is None


def test_foreign_candidates_are_of_the_next_problem_of_its_size() -> None:
    sizes = ["a", "b", "a", "b", "c", "a"]
    assert foreign_of(range(6), sizes) == {0: 2, 2: 5, 5: 0, 1: 3, 3: 1, 4: 5}
    assert foreign_of([0, 1, 4], sizes) == {0: 1, 1: 4, 4: 0}
    assert foreign_of([3], sizes) == {}


def test_a_setting_is_named_also_if_the_first_problem_has_no_answer() -> None:
    problems = [
        BenchmarkProblem(id="a", text="", gold="", error="line 1 has no answer"),
        BenchmarkProblem(id="b", text="1+1", gold="2"),
    ]
    generator = Mock(layouts=("linear",))
    generator.refusal.return_value = InvalidRequest("methods", "cannot be spelled")
    with pytest.raises(InvalidRequest, match="methods: cannot be spelled"):
        refused_problems(generator, problems, AccuracyConfig())
