"""Decontamination finds what shares text with an evaluation set, and nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsr_engine import InvalidRequest
from train.hybrid.decontamination import Decontamination
from train.hybrid.inputs import HybridFiles
from train.problems import Problem

WORDS = [f"w{index}" for index in range(5000)]


@given(
    n=st.integers(1, 15),
    shared=st.integers(1, 20),
    seed=st.integers(0, 1000),
    place=st.integers(0, 10),
)
def test_an_ngram_is_found_exactly_where_it_is_planted(
    n: int, shared: int, seed: int, place: int
) -> None:
    rng = random.Random(seed)
    words = rng.sample(WORDS, 200)
    planted, rest = words[:shared], words[shared:]
    evaluated = " ".join([*rest[:20], *planted, *rest[20:40]])
    planted_in = " ".join([*rest[40 : 40 + place], *planted, *rest[60:80]])
    check = Decontamination({"aime": [Problem("e", evaluated, None)]}, n)
    problems = [Problem("bad", planted_in, "1"), Problem("good", " ".join(rest[80:120]), "1")]
    kept, findings = check.split(problems)
    if shared >= n:
        (finding,) = findings
        assert [one.id for one in kept] == ["good"]
        assert (finding.problem_id, finding.reason) == ("bad", "ngram")
        assert (finding.found_in, finding.found_id) == ("aime", "e")
        assert finding.text in planted_in
        assert finding.text in evaluated
        assert len(finding.text.split()) == n
    else:
        assert (kept, findings) == (problems, [])


def test_case_and_punctuation_do_not_hide_it() -> None:
    words = [f"w{index}" for index in range(13)]
    check = Decontamination({"e": [Problem("1", " ".join(words), None)]}, 13)
    kept, findings = check.split([Problem("p", ", ".join(words).upper() + "!", None)])
    assert not kept
    assert findings[0].reason == "ngram"


def test_short_problems_are_found_only_whole() -> None:
    check = Decontamination({"e": [Problem("1", "What is $2 + 3$?", "5")]}, 13)
    problems = [
        Problem("same", "what is 2+3", None),
        Problem("other", "What is $2 - 3$?", None),
        Problem("longer", "What is $2 + 3$? And then 4?", None),
    ]
    kept, findings = check.split(problems)
    assert [one.id for one in kept] == ["other", "longer"]
    assert [(one.problem_id, one.reason) for one in findings] == [("same", "exact")]


def test_of_problems_that_come_twice_the_first_is_kept() -> None:
    problems = [Problem("a", "1 + 1?", "2"), Problem("b", "1+1", "2"), Problem("c", "1+2", "3")]
    kept, findings = Decontamination({}, 13).split(problems)
    assert [one.id for one in kept] == ["a", "c"]
    assert [(one.problem_id, one.reason, one.found_id) for one in findings] == [
        ("b", "duplicate", "a")
    ]


def test_a_bad_length_is_named() -> None:
    with pytest.raises(InvalidRequest, match="ngram"):
        Decontamination({}, 0)


def test_evaluation_sets_of_the_same_name_are_all_looked_at(tmp_path: Path) -> None:
    files = []
    for name in ("aime24", "aime25"):
        (tmp_path / name).mkdir()
        files.append(tmp_path / name / "test.jsonl")
        files[-1].write_text(json.dumps({"problem": f"{name} asks", "answer": "1"}) + "\n")
    problems = tmp_path / "problems.jsonl"
    asked = ("aime24 asks", "aime25 asks", "we ask")
    problems.write_text("".join(json.dumps({"problem": p, "answer": "1"}) + "\n" for p in asked))
    work = tmp_path / "work"
    work.mkdir()
    found = HybridFiles(problems=problems, evaluation=tuple(files)).ingredients(work, 0)
    assert [one.text for one in found.problems] == ["we ask"]
