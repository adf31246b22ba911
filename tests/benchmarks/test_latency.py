"""Latency beside accuracy: figures from stated moments, the grid, the command; nothing is timed."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.latency.__main__ import main, opened_engine
from benchmarks.latency.cell import Cell, Streams, grid, lengths_of
from benchmarks.latency.figures import PHASES, figures
from benchmarks.latency.journal import CELLS, Journal
from benchmarks.latency.load import arrivals, drive
from benchmarks.latency.measure import Grid, Questions
from benchmarks.latency.plot import lines_over, plot_closed, plot_open
from benchmarks.latency.table import WIDTH, show
from benchmarks.latency.timed_answer import Moments
from benchmarks.peers.run import PeerSkipped
from benchmarks.peers.servers import NotAnswered, Setting
from benchmarks.tasks.task import BenchmarkProblem
from gsr_engine.demo.report import NANO
from gsr_engine.errors import CheckpointError, InvalidRequest
from gsr_engine.evaluation.grader import ExactGrader
from gsr_engine.params import LAYOUTS
from gsr_engine.speed.refine_speed import Lengths
from tests.helpers.timed import InstantSystem, graded, measured, timed

CELL = Cell(system="one", k=2, at_once=1)
SECONDS = st.floats(0.0, 100.0)


def moments_of(*told: tuple[str, float], k: int = 2) -> Moments:
    """What a reader says, each at a moment of its clock; the problem arrived at 100."""
    clock = iter([moment for _, moment in told])
    moments = Moments(k, 100.0, lambda: next(clock))
    for name, _ in told:
        if name == "refinement":
            moments.refinement()
        else:
            moments.candidate(int(name))
    return moments


def answer_of(moments: Moments, candidate_tokens: int = 7, refine_tokens: int = 3) -> Any:
    return moments.answer(
        candidate_tokens=candidate_tokens,
        refine_tokens=refine_tokens,
        computed_tokens=None,
        candidate_answers=[None, None],
        answer=None,
    )


def test_moments_count_from_the_arrival_of_the_problem() -> None:
    told = [("1", 101.0), ("0", 102.0), ("1", 103.0), ("0", 106.0), ("1", 104.0)]
    answer = answer_of(moments_of(*told, ("refinement", 107.0), ("refinement", 111.0)))
    assert (answer.firsts, answer.lasts) == ([2.0, 1.0], [6.0, 4.0])
    assert answer.phases == (1.0, 5.0, 1.0, 4.0)
    assert answer.candidate_tpot == (4 + 3) / 5  # seven tokens, of which two came first
    assert answer.refine_tpot == 2.0


def test_a_stream_of_one_token_has_no_time_per_token() -> None:
    answer = answer_of(moments_of(("0", 101.0), ("1", 101.0), ("refinement", 102.0)), 2, 1)
    assert (answer.candidate_tpot, answer.refine_tpot) == (None, None)


def test_a_stream_of_which_nothing_came_is_named() -> None:
    assert moments_of(("1", 101.0)).missing == ["candidate 1", "the refinement"]
    assert not moments_of(("0", 101.0), ("1", 101.0), ("refinement", 102.0)).missing


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=5), SECONDS, SECONDS)
def test_phases_add_up_to_the_whole(
    streams: list[tuple[float, float]], reading: float, refining: float
) -> None:
    firsts = [first for first, _ in streams]
    lasts = [first + more for first, more in streams]
    first = max(lasts) + reading
    answer = timed(firsts=firsts, lasts=lasts, refined_first=first, refined_last=first + refining)
    assert sum(answer.phases) == pytest.approx(answer.refined_last)
    assert min(answer.phases) >= 0.0


def test_figures_of_stated_moments() -> None:
    answers = [timed(seconds) for seconds in (4.0, 8.0, 12.0, 16.0, 20.0)]
    (found,) = figures([measured(CELL, answers)], deadline=12.0)
    assert (found.first_token, found.voted, found.first_refined) == (3.0, 6.0, 9.0)
    assert found.answered.p50 == 12.0
    assert found.answered.p90 == pytest.approx(18.4)
    assert found.answered.p99 == pytest.approx(19.84)
    assert found.phases == dict.fromkeys(PHASES, 3.0)
    assert (found.answers_per_second, found.tokens_per_second) == (0.5, 12.5)
    assert found.goodput == 0.3  # three of five came in time, in ten seconds
    assert (found.generated, found.computed, found.peak_pages) == (25.0, None, 7)
    assert found.grades is None


def test_right_answers_count_beside_those_in_time() -> None:
    answers = [graded(True, 4.0), graded(True, 8.0), graded(False, 4.0), graded(True, 40.0)]
    (found,) = figures([measured(CELL, answers)], deadline=10.0)
    assert found.grades is not None
    assert found.grades.selfref.mean == 0.75
    assert (found.grades.pass_at_1.mean, found.grades.majority.mean) == (0.5, 1.0)
    assert (found.grades.right_per_second, found.grades.good_per_second) == (0.3, 0.2)
    (free,) = figures([measured(CELL, answers)], deadline=None)
    assert free.grades is not None
    assert (free.goodput, free.grades.good_per_second) == (None, None)


def test_maj_at_k_counts_equal_answers_together() -> None:
    votes: dict[str, Any] = {"candidate_answers": ["1", "2", "2.0"], "correct": True}
    assert timed(**votes, candidates_correct=[False, True, True]).majority_correct
    assert not timed(**votes, candidates_correct=[True, False, False]).majority_correct
    none: dict[str, Any] = {"candidate_answers": [None, None], "candidates_correct": [False, False]}
    assert not timed(**none).majority_correct


def test_a_gain_is_paired_with_the_smallest_k_of_the_same_system() -> None:
    better = measured(replace(CELL, k=4), [graded(True)] * 4)
    worse = measured(CELL, [graded(True), graded(False)] * 2)
    other = measured(replace(CELL, k=1, system="two"), [graded(False)] * 4)
    first, second, third = (one.grades for one in figures([better, worse, other], None))
    assert first is not None and second is not None and third is not None  # noqa: PT018
    assert first.gain is not None
    assert first.gain.mean == 0.5
    assert first.gain.low >= 0.0  # no problem is lost, so no draw of problems can lose
    assert (second.gain, third.gain) == (None, None)


def test_the_fastest_round_counts_and_a_busy_machine_is_named() -> None:
    slow = measured(CELL, [timed(8.0)], product_seconds=0.01)
    fast = measured(replace(CELL, round=1), [timed(4.0)], product_seconds=0.02)
    (found,) = figures([slow, fast], None)
    assert (found.answered.p50, found.rounds, found.spread) == (4.0, 2, 2.0)
    assert found.busy  # its product took twice as long as that of the other
    assert found.cell == CELL


def test_a_round_of_shorter_draws_is_not_the_fastest() -> None:
    short = measured(CELL, [timed(4.0, candidate_tokens=5, refine_tokens=5)])
    long = measured(replace(CELL, round=1), [timed(8.0, candidate_tokens=45, refine_tokens=5)])
    (found,) = figures([short, long], None)
    assert (found.answered.p50, found.generated) == (8.0, 50.0)
    assert found.spread == pytest.approx(0.4 / 0.16)


def test_arrivals_have_their_rate_and_are_the_same_for_everybody() -> None:
    moments = arrivals(4.0, 4000, seed=1)
    assert moments == arrivals(4.0, 4000, seed=1) == sorted(moments)
    assert moments[0] == 0.0
    assert 4000 / moments[-1] == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("clients", [1, 3, 9])
def test_a_closed_loop_asks_each_problem_once(clients: int) -> None:
    system, problems = InstantSystem("one", asked=[[]]), [str(i) for i in range(7)]
    cell = replace(CELL, at_once=clients)
    answers, elapsed = asyncio.run(drive(system, problems, cell, seed=5))
    assert sorted(system.asked[0]) == [(text, 5 + i) for i, text in enumerate(problems)]
    assert [one.answer for one in answers] == problems
    assert system.most_at_once == min(clients, 7)
    assert elapsed > 0


def test_in_an_open_loop_time_counts_from_the_arrival() -> None:
    """Not from the question: the second problem arrives while the first one holds the loop up."""

    class Slow(InstantSystem):
        async def answer(self, problem: str, seed: int, moments: Moments) -> Any:
            time.sleep(0.05)  # that is what holds the loop up
            moments.candidate(0)
            moments.candidate(1)
            moments.refinement()
            return answer_of(moments)

    cell = Cell(system="one", k=2, rate=1e6)
    answers, elapsed = asyncio.run(drive(Slow("one"), ["a", "b"], cell, seed=0))
    assert 0.099 < answers[1].refined_last <= elapsed


def test_an_error_ends_what_else_is_asked() -> None:
    system = InstantSystem("one", error=NotAnswered("no"), asked=[[]])
    with pytest.raises(NotAnswered, match="no"):
        asyncio.run(drive(system, ["a"] * 9, replace(CELL, at_once=3), seed=0))
    assert len(system.asked[0]) == 3


def test_systems_take_turns_and_rounds_are_apart() -> None:
    cells = list(grid(["one", "two"], [1, 2], [None], [4], [0.5], rounds=2))
    assert len(set(cells)) == len(cells) == 16
    assert [one.system for one in cells] == ["one", "two"] * 8
    assert [one.round for one in cells] == [0] * 8 + [1] * 8
    assert {(one.at_once, one.rate) for one in cells} == {(4, 0.0), (0, 0.5)}


def test_streams_are_fixed_or_natural() -> None:
    fixed = Streams(k=2, candidate=6, refine=5, fixed=True)
    assert fixed.tokens(refinement=True) == {"max_tokens": 5, "min_tokens": 5}
    assert not fixed.check(12, 5)
    assert "11 and 5 tokens came, 12 and 5 were asked for" in fixed.check(11, 5)
    natural = replace(fixed, fixed=False)
    assert natural.tokens(refinement=False) == {"max_tokens": 6}
    assert not natural.check(3, 1)


@pytest.mark.parametrize("text", ["8/8", "8/8/8/8", "a/8/8", "0/8/8", "8/1/8", "8/8/1", "-8/8/8"])
def test_bad_lengths_are_refused(text: str) -> None:
    assert lengths_of("8/9/10") == Lengths(8, 9, 10)
    with pytest.raises(InvalidRequest, match=r"lengths: .*" + text):
        lengths_of(text)


def questions(grader: ExactGrader | None = None) -> Questions:
    """Three problems whose gold is the text of two of them; the last one warms up."""
    problems = [
        BenchmarkProblem(id=text, text=text, gold=gold)
        for text, gold in zip("ab!", "aab", strict=True)
    ]
    return Questions(problems={None: problems}, max_tokens=8, seed=3, grader=grader)


def run_grid(
    folder: Path,
    systems: Sequence[InstantSystem],
    ks: Sequence[int] = (1, 2),
    grader: ExactGrader | None = None,
    **settings: Any,
) -> tuple[Grid, list[Any], list[int]]:
    """Measure a grid; gives it, what it measured, and the counts of the progress."""
    counts: list[int] = []
    with Journal(folder, {"seed": 3, **settings}) as journal:
        found = Grid(
            {one.name: one for one in systems},
            questions(grader),
            journal,
            lambda _: None,
            time_product=lambda: 0.5,
        )
        cells = list(grid([one.name for one in systems], ks, [None], [1], [], rounds=1))
        return found, found.measure(cells, lambda _, count: counts.append(count)), counts


def test_a_grid_goes_on_behind_the_cells_that_it_has(tmp_path: Path) -> None:
    stopped = InstantSystem("two", error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_grid(tmp_path, [InstantSystem("one"), stopped])
    with (tmp_path / CELLS).open("a") as file:
        file.write('{"torn')
    one, two = InstantSystem("one"), InstantSystem("two")
    _, found, counts = run_grid(tmp_path, [one, two])
    assert (len(one.asked), len(two.asked)) == (1, 2)
    assert [(one.cell.system, one.cell.k) for one in found] == [
        ("one", 1), ("two", 1), ("one", 2), ("two", 2),
    ]  # fmt: skip
    assert sum(counts) == 8  # two problems of four cells
    again, same, _ = run_grid(tmp_path, [one, two])
    assert (len(one.asked), same, again.left_out) == (1, found, {})


def test_another_grid_adds_its_cells_and_other_settings_are_refused(tmp_path: Path) -> None:
    one = InstantSystem("one")
    run_grid(tmp_path, [one])
    assert len(run_grid(tmp_path, [one], ks=(2, 4))[1]) == 2
    assert len(one.asked) == 3
    with pytest.raises(CheckpointError, match=r"cells, with another seed=3 not 4"):
        run_grid(tmp_path, [one], seed=4)


def test_a_line_that_is_no_cell_is_named(tmp_path: Path) -> None:
    run_grid(tmp_path, [InstantSystem("one")], ks=(1,))
    with (tmp_path / CELLS).open("a") as file:
        file.write('{"cell": 1}\n')
    with pytest.raises(InvalidRequest, match=r"out: .*cells\.jsonl line 2 is not a cell"):
        run_grid(tmp_path, [InstantSystem("one")])


def test_warm_up_is_not_measured_and_seeds_are_the_same_for_everybody(tmp_path: Path) -> None:
    one, two = InstantSystem("one"), InstantSystem("two")
    _, found, _ = run_grid(tmp_path, [one, two], grader=ExactGrader())
    assert one.asked == two.asked == [[("!", 5), ("a", 3), ("b", 4)]] * 2
    assert [[answer.correct for answer in one.answers] for one in found] == [[True, False]] * 4


def test_a_round_finds_nothing_in_the_prefix_cache_of_another() -> None:
    """Both ask the same problems of one engine, and the faster one counts."""
    rounds = [replace(CELL, round=number) for number in (0, 1)]
    assert len({questions().streams(cell).salt for cell in rounds}) == 2


def test_the_engine_draws_as_its_peers_do_whatever_the_checkpoint_asks_for(tmp_path: Path) -> None:
    folder = shutil.copytree(NANO, tmp_path / "model")
    (folder / "gsr.json").unlink()
    (folder / "generation_config.json").write_text('{"temperature": 0.1, "top_k": 1}')
    setting = Setting(model=folder, dtype="float32", threads=1, kv_gib=0.02, out=tmp_path)
    with opened_engine(setting) as (engine, _):
        assert not engine.generation.stated


def test_what_cannot_be_measured_is_left_out_by_name(tmp_path: Path) -> None:
    missing = InstantSystem("missing", opening_error=PeerSkipped("not installed"))
    refusing = InstantSystem("refusing", error=NotAnswered("http://x: status 503: full"))
    left, found, counts = run_grid(tmp_path, [missing, refusing, InstantSystem("one")])
    assert [one.cell.system for one in found] == ["one", "one"]
    reasons = [(cell.system, cell.k, reason) for cell, reason in left.left_out.items()]
    assert sorted(reasons) == [
        ("missing", 1, "not installed"),
        ("missing", 2, "not installed"),
        ("refusing", 1, "http://x: status 503: full"),
        ("refusing", 2, "http://x: status 503: full"),
    ]
    assert sum(counts) == 12
    console = Console(record=True, width=WIDTH)
    show(console, figures(found, None), left.left_out, None)
    assert "left out: refusing, k 2, natural, 1 at once: http://x: status 503: full" in " ".join(
        console.export_text().split()
    )


def many_figures() -> list[Any]:
    cells = [
        Cell(system=system, k=k, at_once=at_once, rate=rate)
        for system in ("one", "two")
        for k in (1, 2)
        for at_once, rate in ((1, 0.0), (4, 0.0), (0, 0.5), (0, 1.0))
    ]
    return figures([measured(cell, [graded(True), graded(False)]) for cell in cells], 5.0)


def test_a_line_keeps_everything_but_its_axis() -> None:
    lines = list(lines_over(many_figures(), "at_once"))
    assert [(system, values) for system, values, _ in lines] == [("one", [1, 4]), ("two", [1, 4])]
    assert {one.cell.k for _, _, line in lines for one in line} == {1}


def test_tables_and_pictures(tmp_path: Path) -> None:
    found = many_figures()
    console = Console(record=True, width=WIDTH)
    show(console, found, {}, 5.0)
    text = console.export_text()
    for words in ("which k is worth its latency", "0.500 [", "right/s in 5 s", "waiting"):
        assert words in text
    plot_closed([one for one in found if one.cell.at_once], "a title", tmp_path / "a.png")
    plot_open([one for one in found if one.cell.rate], 5.0, "a title", tmp_path / "b.png")
    plot_closed(found[:1], "one cell", tmp_path / "c.png")
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in "abc")


OPTIONS: dict[str, Any] = {
    "model": None,
    "shape": None,
    "chosen": "engine",
    "endpoint": None,
    "k": "2",
    "layouts": None,
    "task": "puzzles",
    "data": None,
    "lengths": "",
    "at_once": "2",
    "rate": "",
    "count": 2,
    "rounds": 1,
    "max_tokens": 200,
    "deadline": 60.0,
    "seed": 1,
    "dtype": "float32",
    "threads": 1,
    "kv_gib": 0.05,
}


@pytest.mark.slow
def test_the_command_measures_nano_and_grades_it(tmp_path: Path) -> None:
    """Every kind of system answers; nobody is timed. A second run measures nothing."""
    every = "engine,gsr-serve,transformers,transformers-batching"
    main(**OPTIONS | {"chosen": every, "layouts": "branched", "out": tmp_path})
    found = json.loads((tmp_path / "latency.json").read_text())
    assert [one["cell"]["system"] for one in found["cells"]] == [
        "engine branched",
        "gsr-serve, branched",
        "gsr-serve, client's loop",
        "transformers",
        "transformers-batching",
    ]
    assert not found["left_out"]
    generated = {one["cell"]["system"]: one["generated"] for one in found["cells"]}
    assert generated["engine branched"] == generated["gsr-serve, branched"]  # the same draws
    assert all(one["grades"] is not None for one in found["cells"])
    assert (tmp_path / "latency.png").stat().st_size > 10_000
    before = (tmp_path / CELLS).read_bytes()
    main(**OPTIONS | {"layouts": "branched", "out": tmp_path})
    assert (tmp_path / CELLS).read_bytes() == before


@pytest.mark.slow
def test_fixed_lengths_are_kept_and_not_graded(tmp_path: Path) -> None:
    fixed = {"chosen": "engine,transformers", "lengths": "12/5/4", "k": "3", "at_once": ""}
    main(**OPTIONS | fixed | {"rate": "50", "out": tmp_path})
    found = json.loads((tmp_path / "latency.json").read_text())["cells"]
    assert [one["generated"] for one in found] == [19.0] * 3
    assert [one["grades"] for one in found] == [None] * 3
    assert (tmp_path / "goodput.png").stat().st_size > 10_000


@pytest.mark.slow
def test_random_weights_of_a_shape_do_the_same_work_and_branched_computes_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    random = {"shape": "tiny", "lengths": "8/8/4,16/8/4", "k": "2,4", "at_once": "1"}
    main(**OPTIONS | random | {"out": tmp_path / "out"})
    found = json.loads((tmp_path / "out/latency.json").read_text())["cells"]
    computed = {
        (one["cell"]["system"], one["cell"]["k"], one["cell"]["lengths"][0]): one["computed"]
        for one in found
    }
    for k in (2, 4):
        for problem in (8, 16):
            linear, branched = (computed[f"engine {x}", k, problem] for x in LAYOUTS)
            assert branched < linear
    assert computed["engine linear", 2, 8] < computed["engine linear", 4, 8]
    assert computed["engine linear", 2, 8] < computed["engine linear", 2, 16]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("shape", "tiny", "shape: needs --lengths"),
        ("k", "0", "k: must be numbers from 1"),
        ("at_once", "x", "at-once: must be numbers"),
        ("at_once", "", "at-once: there is neither"),
        ("rate", "-1", "rate: must be problems per second"),
        ("chosen", "fast", r"systems: must be some of engine, .* 'fast'"),
        ("chosen", "", "systems: is empty"),
        ("task", "chess", "task: must be one of"),
        ("layouts", "tree", "layouts: must be some of"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, option: str, value: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        main(**OPTIONS | {option: value, "out": tmp_path})
