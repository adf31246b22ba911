"""Candidate sets: what is drawn, what is shown, and which are kept."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsr_engine import InvalidRequest
from gsr_engine.text.answers import majority
from tests.helpers.build_inputs import run_build, write_jsonl
from train.hybrid.candidate_sets import SetConfig, SetFile, balanced, draw_sets, uniform_weights
from train.hybrid.student import Student
from train.problems import Problem
from train.samples import Sample


@pytest.fixture(scope="module")
def student(checkpoints: dict[str, Path]) -> Student:
    return Student(checkpoints["qwen2"])


@given(
    pool=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=9),
    k=st.tuples(st.integers(1, 5), st.integers(0, 3)),
    sets=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_a_set_is_a_subset_in_range_and_its_counts_are_right(
    student: Student, pool: list[tuple[int, bool]], k: tuple[int, int], sets: int, seed: int
) -> None:
    samples = [
        Sample(id="p", index=index, text=f"so {answer}", answer=str(answer), correct=right)
        for index, (answer, right) in enumerate(pool)
    ]
    least, most = k[0], k[0] + k[1]
    config = SetConfig(weights=uniform_weights(f"{least}-{most}"), sets=sets, seed=seed)
    dropped: Counter[str] = Counter()
    problem = Problem("p", "what?", "1")
    drawn = list(draw_sets([problem], lambda _: samples, student, config, dropped))
    assert len(drawn) == (sets if len(pool) >= least else 0)
    assert dropped["problem with too few candidates"] == int(len(pool) < least)
    assert len({one.id for one in drawn}) == len(drawn)
    for one in drawn:
        assert least <= len(one.indices) <= min(most, len(pool))
        assert len(set(one.indices)) == len(one.indices)
        assert one.candidates == [samples[index].text for index in one.indices]
        shown = [samples[index] for index in one.indices]
        assert one.num_correct == sum(sample.correct for sample in shown)
        vote = majority([sample.answer for sample in shown], [one.correct for one in shown])
        assert one.majority_correct is shown[vote].correct
    again = list(draw_sets([problem], lambda _: samples, student, config, dropped))
    assert again == drawn


def test_sizes_follow_the_weights_and_orders_differ(student: Student) -> None:
    samples = [
        Sample(id="p", index=index, text=str(index), correct=True, answer="1") for index in range(6)
    ]
    problems = [Problem(f"p{index}", "?", "1") for index in range(400)]
    config = SetConfig(weights=(0.5, 0, 0, 0.5))
    drawn = list(draw_sets(problems, lambda _: samples, student, config, Counter()))
    sizes = Counter(len(one.indices) for one in drawn)
    assert set(sizes) == {1, 4}
    assert 150 < sizes[1] < 250
    firsts = Counter(one.indices[0] for one in drawn)
    assert set(firsts) == set(range(6))


def test_one_problems_sets_do_not_depend_on_the_others(student: Student) -> None:
    samples = [
        Sample(id="p", index=index, text=str(index), correct=True, answer="1") for index in range(6)
    ]
    problems = [Problem(f"p{index}", "?", "1") for index in range(5)]
    config = SetConfig(sets=2)
    whole = list(draw_sets(problems, lambda _: samples, student, config, Counter()))
    alone = list(draw_sets(problems[3:4], lambda _: samples, student, config, Counter()))
    assert alone == whole[6:8]


@given(
    majority_correct=st.lists(st.sampled_from([True, False, None]), max_size=60),
    easy=st.one_of(st.none(), st.floats(0, 4)),
    seed=st.integers(0, 100),
)
def test_balance_keeps_all_hard_sets_and_a_share_of_easy_ones(
    majority_correct: list[bool | None], easy: float | None, seed: int
) -> None:
    kept = balanced(majority_correct, easy, seed)
    assert kept == sorted(set(kept))
    before, after = Counter(majority_correct), Counter(majority_correct[index] for index in kept)
    assert after[False] == before[False]
    assert after[None] == before[None]
    wanted = before[True] if easy is None else min(before[True], round(easy * before[False]))
    assert after[True] == wanted


def test_unchecked_candidates_make_an_unchecked_set(student: Student) -> None:
    samples = [
        Sample(id="p", index=0, text="1", correct=True, answer="1"),
        Sample(id="p", index=1, text="2", answer="2"),
    ]
    config = SetConfig(weights=uniform_weights("2"))
    (one,) = draw_sets([Problem("p", "?", None)], lambda _: samples, student, config, Counter())
    assert (one.num_correct, one.majority_correct) == (-1, None)


def test_only_what_a_candidate_shows_enters(student: Student) -> None:
    encode, end = student.tokenizer.encode_text, student.tokenizer.end_id
    assert end is not None
    samples = [
        Sample(id="p", index=0, text="<think>hm</think>short"),
        Sample(id="p", index=1, token_ids=[*encode("<think>a</think>" + "x" * 30 + "yz"), end]),
        Sample(id="p", index=2, text="<think>never ends"),
    ]
    dropped: Counter[str] = Counter()
    config = SetConfig(weights=uniform_weights("2"), summary_tokens=8)
    (one,) = draw_sets([Problem("p", "?", None)], lambda _: samples, student, config, dropped)
    assert dict(zip(one.indices, one.candidates, strict=True)) == {0: "short", 1: "xxxxxxyz"}
    assert one.candidate_ids == [encode(text) for text in one.candidates]
    assert dropped["candidate without a summary"] == 1


@pytest.mark.parametrize("k", ["", "a", "0-3", "3-2", "4-", "-4", "1-1000", "1.5"])
def test_a_bad_range_is_named(k: str) -> None:
    with pytest.raises(InvalidRequest, match="k:"):
        uniform_weights(k)


@pytest.mark.parametrize(
    "bad", [{"weights": ()}, {"weights": (0.0,)}, {"sets": 0}, {"easy": -1}, {"summary_tokens": 0}]
)
def test_bad_settings_are_named(bad: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(bad))):
        SetConfig(**bad)  # type: ignore[arg-type]


def test_the_command_writes_prompts_for_the_teacher(qwen2: Path, tmp_path: Path) -> None:
    """Truncated and failed candidates stay out; all hard sets are there, and half as many easy."""
    problems = [{"id": f"p{i}", "problem": f"{i}+1?", "answer": str(i + 1)} for i in range(30)]
    records = [
        {
            "id": f"p{i}",
            "sample": j,
            "text": f"it is {i + (j == 0 or i % 3 > 0)}" if j < 4 else "cut",
            "answer": str(i + (j == 0 or i % 3 > 0)),
            "correct": j == 0 or i % 3 > 0,
            "finish_reason": ("stop", "stop", "stop", "stop", "length", "error")[j],
        }
        for i in range(30)
        for j in range(6)
    ]
    write_jsonl(tmp_path / "problems.jsonl", problems)
    (tmp_path / "samples").mkdir()
    write_jsonl(tmp_path / "samples" / "a.jsonl", records[:100])
    with (tmp_path / "samples" / "b.jsonl").open("w") as file:
        file.writelines(json.dumps(record) + "\n" for record in [*records[96:], *records[:4]])
        file.write('{"id": "p1", "sam')  # torn
    out = tmp_path / "sets" / "refine.jsonl"
    arguments = [
        "refine",
        f"--problems={tmp_path / 'problems.jsonl'}",
        f"--candidates={tmp_path / 'samples'}",
        f"--model={qwen2}",
        f"--out={out}",
        "--k=3-4",
    ]
    run_build(*arguments)
    sets = list(SetFile(out))
    assert Counter(one.majority_correct for one in sets) == {False: 10, True: 5}
    for one in sets:
        assert set(one.indices) <= {0, 1, 2, 3}
        assert "cut" not in one.candidates
    card = json.loads(out.with_suffix(".card.json").read_text())
    assert card["drawn"] == {"easy": 20, "hard": 10}
    assert card["kept"] == {"easy": 5, "hard": 10}
    assert sum(card["by_k"].values()) == sum(card["by_num_correct"].values()) == 15
    assert card["dropped"] == {"candidate: failed": 30, "candidate: truncated": 30}
    first = out.read_bytes()
    before = out.stat().st_mtime_ns
    assert "there already" in run_build(*arguments)
    assert out.stat().st_mtime_ns == before
    out.unlink()
    run_build(*arguments)
    assert out.read_bytes() == first
    run_build(*arguments, "--no-balance", "--keep-truncated")
    assert len(SetFile(out)) == 30
    with out.open("a") as file:
        file.write("\n \n")  # an editor's blank lines are no sets
    assert len(list(SetFile(out))) == 30
    assert sorted(file.name for file in out.parent.iterdir()) == [
        "refine.card.json",
        "refine.jsonl",
    ]


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sets.jsonl"
    path.write_text('{"id": 1}\n')
    with pytest.raises(InvalidRequest, match="line 1"):
        SetFile(path)[0]
    with pytest.raises(InvalidRequest, match="no file"):
        SetFile(tmp_path / "none.jsonl")
