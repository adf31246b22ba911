"""Scores of a small case, counted by hand; a samples file gives the same table again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.accuracy import scores, spent
from benchmarks.accuracy.results import (
    ProblemResult,
    Refinement,
    Solution,
    read_results,
    write_results,
)
from benchmarks.accuracy.spent import Spent
from benchmarks.accuracy.table import method_scores, method_spent, show_table
from benchmarks.nano.promises import check_promises


def stream(answer: str | None, gold: str, logprob: float = 0.0) -> Solution:
    return Solution(f"it is {answer}", answer, answer == gold, 3, logprob)


def sample(name: str, answers: list[str | None], refined: str, greedy: str) -> ProblemResult:
    gold = "7"
    logprobs = (-2.0, -1.0, -3.0, -4.0)
    candidates = [stream(*pair[:1], gold, pair[1]) for pair in zip(answers, logprobs, strict=True)]
    one = ProblemResult(name, "3+4", gold, "small", candidates, stream(greedy, gold))
    for layout in ("linear", "branched"):
        for k in (1, 2, 4, 8):
            one.refinements[f"{layout}@{k}"] = Refinement(
                refined, refined, refined == gold, 3, used=list(range(min(k, 4)))
            )
    return one


@pytest.fixture
def samples() -> list[ProblemResult]:
    return [
        sample("majority", ["7", "2", "1", "7"], "7", "7"),
        sample("outvoted", ["1", "1", "7", None], "7", "1"),
        sample("all wrong", ["1", "2", "3", "4"], "7", "1"),
        sample("spoilt", ["7", "7", "7", "7"], "5", "7"),
    ]


RUN = {
    "settings": {
        "model": "m",
        "k": [1, 2, 4, 8],
        "layouts": ["linear", "branched"],
        "headline": 4,
        "temperature": 1.0,
        "max_tokens": 64,
    },
    "left_out": [["p9", "problem: is empty"]],
    "machine": {},
    "measured": {"cost": {}},
}


def test_by_hand(samples: list[ProblemResult]) -> None:
    assert scores.pass_at_1(samples, 4).tolist() == [0.5, 0.25, 0.0, 1.0]
    assert scores.oracle(samples, 4).tolist() == [1, 1, 0, 1]
    assert scores.oracle(samples, 2).tolist() == [1, 0, 0, 1]
    assert scores.majority_at(samples, 4).tolist() == [1, 0, 0, 1]
    assert scores.best_of(samples, 4).tolist() == [0, 0, 0, 1]  # the second is the likeliest
    assert scores.best_of(samples, 1).tolist() == [1, 0, 0, 1]
    assert scores.greedy(samples).tolist() == [1, 0, 0, 1]
    assert scores.refined(samples, "linear@4").tolist() == [1, 1, 1, 0]
    assert scores.refined(samples, "no such method").tolist() == [0, 0, 0, 0]
    assert scores.num_correct(samples, 4).tolist() == [2, 1, 0, 4]


def test_shares_and_tokens_by_hand() -> None:
    def cut(answer: str | None, tokens: int, logprob: float) -> Solution:
        return Solution("", answer, False, tokens, logprob, "length")

    def whole(answer: str | None, tokens: int, logprob: float) -> Solution:
        return Solution("", answer, False, tokens, logprob)

    one = ProblemResult("a", "", "7", "", [cut(None, 10, -1.0), whole("7", 4, -9.0)])
    other = ProblemResult("b", "", "7", "", [cut(None, 10, -1.0), cut(None, 10, -2.0)])
    one.greedy, other.greedy = whole("1", 2, 0.0), cut(None, 10, 0.0)
    one.refinements["linear@2"] = Refinement("", "7", True, 6)
    other.refinements["linear@2"] = Refinement("", None, False, 10, 0.0, "repetition")
    both = [one, other]
    assert spent.of_candidates(both, 2) == Spent(cut=0.75, unanswered=0.75, tokens=8.5)
    assert spent.of_candidates(both, 1) == Spent(cut=1.0, unanswered=1.0, tokens=10)
    assert spent.of_selection(both, 2) == Spent(cut=0.75, unanswered=0.5, tokens=17)
    assert spent.of_best(both, 2) == Spent(cut=1.0, unanswered=1.0, tokens=17)
    assert spent.of_greedy(both) == Spent(cut=0.5, unanswered=0.5, tokens=6)
    assert spent.of_refinement(both, "linear@2", 2) == Spent(0.5, 0.5, tokens=17 + 8)


def test_no_majority_is_right(samples: list[ProblemResult], tmp_path: Path) -> None:
    console = Console(width=140, record=True, file=(tmp_path / "out").open("w"))
    show_table(console, RUN, samples[1:3])
    text = console.export_text()
    assert "nan" not in text
    assert "refinement gap –" in text
    assert "left out: problem p9: problem: is empty" in text
    assert len(method_spent(RUN, samples)) == len(method_scores(RUN, samples))


def test_bootstrap_covers_and_is_paired() -> None:
    rng = np.random.default_rng(0)
    better = (rng.random(2000) < 0.8).astype(float)
    worse = better * (rng.random(2000) < 0.95)
    interval = scores.bootstrap(better)
    assert interval.low < 0.8 < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * (0.16 / 2000) ** 0.5, rel=0.1)
    paired = scores.bootstrap(better - worse)
    assert paired.low > 0
    assert paired.high - paired.low < interval.high - interval.low
    assert scores.bootstrap(better - better) == scores.Interval(0.0, 0.0, 0.0)


def test_the_file_gives_the_same_table(samples: list[ProblemResult], tmp_path: Path) -> None:
    write_results(tmp_path / "s.jsonl", RUN, samples)
    run, again = read_results(tmp_path / "s.jsonl")
    assert (run, again) == (RUN, samples)
    texts = []
    for rows in (samples, again):
        console = Console(width=140, record=True, file=(tmp_path / "out").open("w"))
        show_table(console, run, rows)
        texts.append(console.export_text())
    assert texts[0] == texts[1]
    assert "majority wrong → refined right 2, right → wrong 1" in texts[0]


def test_promises_are_judged(samples: list[ProblemResult]) -> None:
    judged = {promise.text: promise.kept for promise in check_promises(RUN, samples * 50)}
    assert judged["pass@1 between 0.4 and 0.7"]
    assert judged["selfRef linear@4 above maj@4"]
    assert not judged["selfRef linear@4 above pass@4 (oracle)"]
    assert judged["selfRef branched@4 repairs half of the all-wrong sets"]
    assert judged["branched at most 1.5 points behind linear"]
    assert not judged["selfRef linear@4 above selfRef linear@1"]
