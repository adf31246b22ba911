"""Candidate sets: what is drawn, what is shown, and which are kept."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

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
        Sample(
            id="p",
            index=1,
            token_ids=[*encode("<think>a</think>" + "x" * 30 + "yz"), end],
            tokenizer=student.tokenizer_hash,
        ),
        Sample(id="p", index=2, text="<think>never ends"),
    ]
    dropped: Counter[str] = Counter()
    config = SetConfig(weights=uniform_weights("2"), summary_tokens=8)
    (one,) = draw_sets([Problem("p", "?", None)], lambda _: samples, student, config, dropped)
    assert dict(zip(one.indices, one.candidates, strict=True)) == {0: "short", 1: "xxxxxxyz"}
    assert one.candidate_ids == [encode(text) for text in one.candidates]
    assert dropped["candidate without a summary"] == 1


def test_ids_of_another_tokenizer_are_not_taken_for_its_own(qwen2: Path) -> None:
    """What is shown is always the sample's text; why it was encoded is counted."""
    student = Student(qwen2)
    own = student.tokenizer_hash
    ids = student.tokenizer.encode_text("it is 7")
    samples = [
        Sample(id="p", index=0, text="it is 7", token_ids=ids, tokenizer=own),
        Sample(id="p", index=1, text="it is 7", token_ids=[9, 9, 9], tokenizer="0" * 64),
        Sample(id="p", index=2, text="it is 7", token_ids=[9, 9, 9]),
        Sample(id="p", index=3, text="it is 7"),
    ]
    config = SetConfig(weights=uniform_weights("4"))
    (one,) = draw_sets([Problem("p", "?", None)], lambda _: samples, student, config, Counter())
    assert one.candidates == ["it is 7"] * 4
    assert one.candidate_ids == [ids] * 4
    reasons = ("another tokenizer", "no tokenizer is named", "it came as text")
    assert student.encoded == dict.fromkeys(reasons, 1)


def one_of(index: int, sample: int, **changed: Any) -> dict[str, Any]:
    record = {"id": f"p{index}", "sample": sample, "text": "it is 1", "answer": "1"}
    return {**record, "correct": True, **changed}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"finish_reason": "length"},
            r"10 candidates were cut at max_tokens \(--keep-truncated shows them\), "
            r"5 problems have fewer than 3 candidates \(--k\)",
        ),
        ({"finish_reason": "error"}, "10 candidates failed or are empty, 5 problems have"),
        ({"text": "<think>without end"}, "10 candidates have no text after their thinking"),
        ({"id": "q"}, "candidates are of none of the problems"),
        ({}, "5 problems have fewer than 3"),
    ],
)
def test_without_a_set_the_reason_is_told(
    qwen2: Path, tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    problems = [{"id": f"p{i}", "problem": f"{i}+1?", "answer": "1"} for i in range(5)]
    write_jsonl(tmp_path / "problems.jsonl", problems)
    records = [one_of(i, j, **changed) for i in range(5) for j in range(2)]
    if "id" in changed:
        records = [record | {"sample": i} for i, record in enumerate(records)]
    write_jsonl(tmp_path / "candidates.jsonl", records)
    files = [f"--{name}={tmp_path / name}.jsonl" for name in ("problems", "candidates")]
    before = set(tmp_path.iterdir())
    with pytest.raises(InvalidRequest, match=f"candidates: no set is left: .*{reason}"):
        run_build("refine", *files, f"--model={qwen2}", f"--out={tmp_path / 's.jsonl'}", "--k=3")
    assert set(tmp_path.iterdir()) == before


def test_easy_sets_alone_are_no_result(qwen2: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "p.jsonl", [{"id": "p0", "problem": "1?", "answer": "1"}])
    write_jsonl(tmp_path / "c.jsonl", [one_of(0, j) for j in range(4)])
    arguments = [f"--problems={tmp_path / 'p.jsonl'}", f"--candidates={tmp_path / 'c.jsonl'}"]
    arguments += [f"--model={qwen2}", f"--out={tmp_path / 's.jsonl'}", "--k=2"]
    with pytest.raises(InvalidRequest, match=r"1 sets have a right majority .*--no-balance"):
        run_build("refine", *arguments)
    run_build("refine", *arguments, "--no-balance")
    assert len(SetFile(tmp_path / "s.jsonl")) == 1


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
            "finish_reason": ("stop", "stop", "stop", "stop", "repetition", "error")[j],
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
