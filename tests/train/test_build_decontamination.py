"""Decontamination finds what shares text with an evaluation set, and nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsr_engine import InvalidRequest
from gsr_engine.text.knights import FORM
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


def test_short_problems_are_found_whole_between_words_and_not_in_a_formula() -> None:
    check = Decontamination({"e": [Problem("1", "What is $2 + 3$?", "5")]}, 13)
    problems = [
        Problem("same", "what is 2+3", None),
        Problem("behind", "What is $2 + 3$? And then 4?", None),
        Problem("before", "Tell me: what is $2+3$", None),
        Problem("other", "What is $2 - 3$?", None),
        Problem("longer number", "What is $2 + 31$?", None),
        Problem("longer formula", "What is $2 + 3 x$ at $x = 4$?", None),
        Problem("another formula", "What is $2 + 3 - 4$?", None),
    ]
    kept, findings = check.split(problems)
    assert [one.id for one in kept] == [
        "other",
        "longer number",
        "longer formula",
        "another formula",
    ]
    found = [(one.problem_id, one.reason, one.found_id) for one in findings]
    assert found == [(name, "exact", "1") for name in ("same", "behind", "before")]


CHINESE = (
    "某商店以每件40元的价格购进一批商品，按每件60元出售，每天可卖出300件，问降价多少元时利润最大"
)
JAPANESE = (
    "一辺の長さが6の正方形の紙から四隅を切り取って箱を作るとき、体積が最大になる高さを求めなさい"
)


@pytest.mark.parametrize("text", [CHINESE, JAPANESE])
def test_near_copies_are_found_in_scripts_without_spaces(text: str) -> None:
    check = Decontamination({"e": [Problem("1", text, "1")]}, 13)
    half = len(text) // 2
    copies = [f"题目：{text}？请写出过程", text[:half] + "のと" + text[half:], text[half:] + "。"]
    other = Problem("other", "求一个三角形的面积，已知三边分别是3、4、5，并写出过程。", "6")
    problems = [Problem(str(i), copy, "1") for i, copy in enumerate(copies)]
    kept, findings = check.split([*problems, other])
    assert kept == [other]
    assert {one.reason for one in findings} == {"ngram"}


def test_the_sentence_that_says_the_form_of_an_answer_is_no_shared_text() -> None:
    one, other = (f"Who is who on island {name}? {FORM}" for name in ("Rhodes", "Malta"))
    check = Decontamination({"e": [Problem("1", one, None)]}, 8)
    kept, _ = check.split([Problem("2", other, None)])
    assert len(kept) == 1


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
