"""An accuracy run: draws, answers, grades, and keeps every result as it comes."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accuracy.config import AccuracyConfig
from benchmarks.accuracy.cost import costed_methods, measure_cost, num_costed, total_cost
from benchmarks.accuracy.generator import Generator
from benchmarks.accuracy.journal import FREE, Journal
from benchmarks.accuracy.methods import selfref
from benchmarks.accuracy.pools import Given, Pools, foreign_of, given_to
from benchmarks.accuracy.progress import AccuracyProgress
from benchmarks.accuracy.refusals import refused_problems
from benchmarks.accuracy.reward_model import RewardModel
from benchmarks.samples.folder import RUN, Run, read_run, write_run
from benchmarks.samples.method import Method
from benchmarks.samples.sample import Answer, Sample, Solution
from benchmarks.tasks.task import BenchmarkProblem
from gsr_engine.environment import describe_machine
from gsr_engine.errors import InvalidRequest
from gsr_engine.evaluation.grader import Grader
from train.command import log
from train.files import differences

CANDIDATES, WEAK, REWARDS = "candidates", "weak", "rewards"
"""What the journal calls the draws, and the rewards of candidates."""
_ABSENT = dict.fromkeys(("refiner", "endpoint", "reward_model", "weak_model"))


class Weak(NamedTuple):
    """The weaker model of a run, and whether it has the tokenizer of the model that refines."""

    generator: Generator
    same_tokens: bool


def measure(
    generator: Generator,
    problems: Sequence[BenchmarkProblem],
    grader: Grader,
    config: AccuracyConfig,
    out: Path,
    about: dict[str, Any],
    weak: Weak | None = None,
    reward_model: RewardModel | None = None,
) -> Run:
    """The run in the folder `out`, which is done first if it is not there.

    An interrupted run goes on from the folder's journal, to the same samples.

    Args:
        generator: measured; made for these problems and this config.
        problems: what is asked.
        grader: judges the answers.
        config: how the problems are asked.
        out: the folder; run.json appears when the run is whole.
        about: the task, names and digests of model and data; `FREE` ones may differ from an earlier
            run's.
        weak: writes the weak candidates of mixed pools.
        reward_model: judges the candidates.

    Raises:
        InvalidRequest: not one problem can be asked, a method cannot be, or `out` holds another run
            or something else.
        CheckpointError: the journal is of a run with other settings.
    """
    named = {
        **_ABSENT,
        **about,
        **config.settings(generator.layouts),
        **generator.settings(),
        "problems": _digest(problems),
        "grader": type(grader).__name__,
    }
    settings: dict[str, Any] = json.loads(json.dumps(named))  # as run.json will hold them
    journal_folder = out / "journal"
    if (out / RUN).exists():
        run = read_run(out, "out")
        if found := differences(settings, run.settings, FREE):
            raise InvalidRequest(
                "out",
                f"{out} holds a run with another {', '.join(found)}; remove it or choose another",
            )
        shutil.rmtree(journal_folder, ignore_errors=True)
        log.info("%s is there already", out)
        return run
    if out.is_file():
        raise InvalidRequest("out", f"{out} is a file, and a run is a folder")
    _check_weak(config.chosen_methods(generator.layouts), weak)
    left_out = refused_problems(generator, problems, config)  # a refused run claims no folder
    with Journal(journal_folder, settings) as journal:
        if len(journal):
            log.info("going on with %s results of %s", f"{len(journal):,}", journal_folder)
        run_of = AccuracyRun(
            generator, problems, grader, config, journal, left_out, weak, reward_model
        )
        facts = run_of.run()
        write_run(out, {"settings": settings, **facts}, run_of.samples(settings["task"]))
    shutil.rmtree(journal_folder)
    return read_run(out)


def can_go_on(out: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    results = out / "journal" / "results.jsonl"
    return (out / RUN).exists() or (results.exists() and results.stat().st_size > 0)


def _check_weak(methods: Sequence[Method], weak: Weak | None) -> None:
    needed = any(method.pool == "weak" for method in methods)
    if needed and weak is None:
        raise InvalidRequest("pools", "weak candidates need a --weak-model")
    if weak is not None and not needed:
        raise InvalidRequest("weak_model", "is for --methods mixed with a weak pool")


class AccuracyRun:
    """Runs every method over the same problems and candidates, in every repeat.

    Args:
        generator, problems, grader, config, weak, reward_model: as of `measure`.
        journal: has the results so far, and keeps each new one as it comes.
        left_out: problems that are not asked, by index, with the reasons.
    """

    def __init__(
        self,
        generator: Generator,
        problems: Sequence[BenchmarkProblem],
        grader: Grader,
        config: AccuracyConfig,
        journal: Journal,
        left_out: dict[int, str],
        weak: Weak | None,
        reward_model: RewardModel | None,
    ) -> None:
        self._generator = generator
        self._problems = problems
        self._grader = grader
        self._config = config
        self._journal = journal
        self._weak = weak
        self._reward_model = reward_model
        self._methods = config.chosen_methods(generator.layouts)
        self._drawers = {CANDIDATES: generator} | ({WEAK: weak.generator} if weak else {})
        self._left_out: dict[int, str] = {}
        for index, reason in left_out.items():
            self._leave_out(index, reason)
        self._following: dict[int, int] = {}
        total, done = self._count_streams()
        writers = list(self._drawers.values())
        self._progress = AccuracyProgress(writers, config.max_tokens, total, done)
        for one in writers:
            one.watch(self._progress.step)

    def _leave_out(self, index: int, reason: str) -> None:
        self._left_out[index] = reason
        log.info("problem %s is left out: %s", self._problems[index].id, reason)

    @property
    def _asked(self) -> list[int]:
        return [index for index in range(len(self._problems)) if index not in self._left_out]

    @property
    def _repeats(self) -> range:
        return range(self._config.repeats)

    def _count_streams(self) -> tuple[int, int]:
        """Solutions of the whole run, and those that the journal has."""
        asked, journal = self._asked, self._journal
        each = dict.fromkeys(self._drawers, self._config.ks[-1])
        each |= {method.name: _num_streams(method) for method in self._methods}
        total = sum(each.values()) * len(asked) * len(self._repeats)
        missing = sum(
            count * len(journal.missing(repeat, name, asked))
            for repeat in self._repeats
            for name, count in each.items()
        )
        of_cost, cost_missing = num_costed(self._methods, self._config, journal, asked)
        return total + of_cost, total - missing + of_cost - cost_missing

    def run(self) -> dict[str, Any]:
        """The facts of the run; all results are in the journal then.

        Raises:
            InvalidRequest: the draw of every problem failed.
        """
        start = time.perf_counter()
        for repeat in self._repeats:
            for name in self._drawers:
                self._draw(name, repeat)
        self._leave_out_failed()
        for repeat in self._repeats:
            self._judge(repeat)
        sizes = [problem.size for problem in self._problems]
        self._following = foreign_of(self._asked, sizes)
        for repeat in self._repeats:
            for method in self._methods:
                self._answer(method, repeat)
        costed = costed_methods(self._methods, self._config)
        for method in costed:
            measure_cost(
                method, self._generator, self._config, self._journal, self._asked, self._progress
            )
        cost = {str(one.layout): total_cost(one, self._journal, self._asked) for one in costed}
        machine = describe_machine()
        return {
            "left_out": [[self._problems[i].id, why] for i, why in sorted(self._left_out.items())],
            "machine": {name: value for name, value in machine.items() if name != "date"},
            "measured": {
                "date": machine["date"],
                "seconds": time.perf_counter() - start,
                "cost": {layout: one for layout, one in cost.items() if one["problems"]},
            },
        }

    def _draw(self, name: str, repeat: int) -> None:
        """The candidates of one model for every problem."""
        draw = self._config.draw(repeat)
        todo = self._journal.missing(repeat, name, self._asked)
        self._progress.begin(self._named(name, repeat), len(todo))
        with closing(self._drawers[name].draw_each(draw, todo)) as each:
            for index, drawn in each:
                self._grade(index, drawn.solutions)
                self._journal.add(repeat, name, index, asdict(drawn))
                self._progress.count(drawn.solutions, draw.count)

    def _leave_out_failed(self) -> None:
        for repeat in self._repeats:
            for name in self._drawers:
                for index in self._asked:
                    if error := self._journal.get(repeat, name, index)["error"]:
                        self._leave_out(index, error)
        if not self._asked:
            raise InvalidRequest("data", f"no problem is left: {self._left_out}")

    def _judge(self, repeat: int) -> None:
        """The rewards of all candidates, if there is a reward model."""
        if self._reward_model is None:
            return
        todo = self._journal.missing(repeat, REWARDS, self._asked)
        self._progress.begin(self._named(REWARDS, repeat), len(todo))
        for index in todo:
            texts = [one.text for one in self._solutions(CANDIDATES, repeat, index)]
            rewards = self._reward_model.rewards(self._problems[index].text, texts)
            self._journal.add(repeat, REWARDS, index, rewards)
            self._progress.step()

    def _answer(self, method: Method, repeat: int) -> None:
        """Answer every problem by one method."""
        todo = self._journal.missing(repeat, method.name, self._asked)
        self._progress.begin(self._named(method.name, repeat), len(todo))
        given = {index: self._given(method, repeat, index) for index in todo}
        solutions = {index: [one.solution for one in read] for index, read in given.items()}
        seed = self._config.seed_of(repeat)
        with closing(self._generator.answer_each(method, seed, todo, solutions)) as each:
            for index, answer in each:
                _name_read(answer, method, given[index])
                self._grade(index, [answer])
                self._journal.add(repeat, method.name, index, asdict(answer))
                unseen = answer.generated_tokens - answer.tokens
                self._progress.count([answer], _num_streams(method), unseen)

    def _given(self, method: Method, repeat: int, index: int) -> list[Given]:
        """What a method reads of a problem."""
        if method.layout is None:
            return []
        pools = Pools(self._solutions(CANDIDATES, repeat, index))
        if method.kind == "mixed":
            following = self._following.get(index)
            foreign = [] if following is None else self._solutions(CANDIDATES, repeat, following)
            weak = self._solutions(WEAK, repeat, index) if method.pool == "weak" else []
            pools = Pools(pools.own, weak, foreign)
        plain = None
        if method.kind == "orders":
            own_order = selfref(method.layout, method.k).name
            plain = Answer(**self._journal.get(repeat, own_order, index))
        return given_to(method, pools, lambda answer: self._right(index, answer), plain)

    def _solutions(self, name: str, repeat: int, index: int) -> list[Solution]:
        """The candidates of a problem as they are read: without log-probabilities."""
        drawn = self._journal.get(repeat, name, index)["solutions"]
        solutions = [Solution(**one | {"logprobs": []}) for one in drawn]
        if name == WEAK and self._weak is not None and not self._weak.same_tokens:
            for one in solutions:
                one.token_ids = []  # the refiner reads their texts
        return solutions

    def _grade(self, index: int, solutions: Sequence[Solution]) -> None:
        for one in solutions:
            one.correct = self._right(index, one.answer)

    def _right(self, index: int, answer: str | None) -> bool:
        return self._grader.correct(answer, self._problems[index].gold)

    def _named(self, name: str, repeat: int) -> str:
        return name if len(self._repeats) == 1 else f"{name} (repeat {repeat + 1})"

    def samples(self, task: str) -> Iterator[Sample]:
        """One sample per repeat and problem that can be asked."""
        for repeat in self._repeats:
            for index in self._asked:
                yield self._sample(task, repeat, index)

    def _sample(self, task: str, repeat: int, index: int) -> Sample:
        problem = self._problems[index]
        drawn = self._journal.get(repeat, CANDIDATES, index)
        weak = self._journal.get(repeat, WEAK, index)["solutions"] if self._weak else []
        candidates = [Solution(**one) for one in drawn["solutions"]]
        if self._reward_model is not None:
            rewards = self._journal.get(repeat, REWARDS, index)
            for one, reward in zip(candidates, rewards, strict=True):
                one.reward = reward
        return Sample(
            task=task,
            repeat=repeat,
            id=problem.id,
            problem=problem.text,
            gold=problem.gold,
            size=problem.size,
            prompt_tokens=drawn["prompt_tokens"],
            candidates=candidates,
            weak=[Solution(**one) for one in weak],
            answers=[
                Answer(**self._journal.get(repeat, method.name, index)) for method in self._methods
            ],
            seconds=drawn["seconds"],
        )


def _num_streams(method: Method) -> int:
    return sum(method.widths) + method.refinements


def _name_read(answer: Answer, method: Method, given: Sequence[Given]) -> None:
    """Say which candidates an answer read, and of which pools."""
    if method.widths:
        answer.used = []  # the last round read refinements
        return
    read = [given[position] for position in answer.used]
    answer.used = [one.number for one in read]
    if any(one.pool != "own" for one in read):
        answer.pools = [one.pool for one in read]
        answer.stated = [one.solution.answer for one in read]


def _digest(problems: Sequence[BenchmarkProblem]) -> str:
    rows = [[one.id, one.text, one.gold, one.size] for one in problems]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
