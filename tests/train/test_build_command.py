"""`train.build hybrid` from files: what is learnt, what is reported, and a second run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gsr_engine import InvalidRequest
from tests.helpers.build_inputs import run_build, write_jsonl
from train.dataset import RowSet
from train.hybrid.materials import PART
from train.hybrid.student import Student

pytestmark = pytest.mark.slow

NUM = 40
PLANTED = " ".join(f"w{i}" for i in range(15))


@pytest.fixture
def arguments(qwen2: Path, tmp_path: Path) -> list[str]:
    """Of a whole build: 40 problems, of which one is evaluated and one comes twice.

    Every prompt has two right targets, a wrong one, an unchecked one and one that was cut; one
    problem and one set have none at all.
    """
    problems = [{"id": f"p{i}", "problem": f"{i} + 1?", "answer": str(i + 1)} for i in range(NUM)]
    problems[7]["problem"] = f"Say {PLANTED}"
    problems[8]["problem"] = "9+1"
    problems[9]["problem"] = "9 + 1?"
    write_jsonl(tmp_path / "problems.jsonl", problems)
    write_jsonl(tmp_path / "eval.jsonl", [{"id": "e", "problem": f"{PLANTED} now", "answer": "1"}])
    candidates = [
        {"id": f"p{i}", "sample": j, "text": f"{j}", "answer": f"{j}", "correct": j == i + 1}
        for i in range(NUM)
        for j in range(4)
    ]
    write_jsonl(tmp_path / "candidates.jsonl", candidates)
    shared = [f"--problems={tmp_path / 'problems.jsonl'}", f"--model={qwen2}"]
    pool, sets = tmp_path / "candidates.jsonl", tmp_path / "sets.jsonl"
    run_build("refine", *shared, f"--candidates={pool}", f"--out={sets}", "--k=2-3", "--no-balance")
    written = [json.loads(line) for line in sets.read_text().splitlines()]
    ids = {"direct": {f"p{i}": f"p{i}" for i in range(NUM)}}
    ids["refine"] = {one["problem_id"]: one["id"] for one in written}
    for name in ("direct", "refine"):
        targets = [
            {
                "id": ids[name].get(f"p{i}", "none"),
                "sample": j,
                "text": f"{name} {i} {('right', 'right', 'wrong', 'unchecked', 'cut')[j]}",
                "correct": (True, True, False, None, True)[j],
                "finish_reason": "length" if j == 4 else "stop",
                "source": "teacher",
            }
            for i in range(NUM)
            for j in range(5)
            if i != (3 if name == "direct" else 4)
        ]
        write_jsonl(tmp_path / f"{name}.jsonl", targets)
    return [
        "hybrid",
        *shared,
        f"--refine={sets}",
        f"--direct-targets={tmp_path / 'direct.jsonl'}",
        f"--refine-targets={tmp_path / 'refine.jsonl'}",
        f"--decontaminate={tmp_path / 'eval.jsonl'}",
        f"--out={tmp_path / 'set'}",
        "--held-out=0",
        "--mix=0.3333333333",
    ]


def test_a_whole_build(arguments: list[str], qwen2: Path, tmp_path: Path) -> None:
    """Right targets that came to their end, once per prompt, of problems that may be learnt."""
    printed = run_build(*arguments)
    assert "# Data card" in printed
    out, tokenizer = tmp_path / "set", Student(qwen2).tokenizer
    rows = RowSet.load(out)
    targets = [
        tokenizer.decode(list(row.token_ids[row.target_start :])).split()
        for row in (rows[i] for i in range(len(rows)))
    ]
    assert {kind for *_, kind in targets} == {"right"}
    left = [str(i) for i in range(NUM) if i not in (7, 9)]
    assert [i for name, i, _ in targets if name == "direct"] == [i for i in left if i != "3"]
    assert [i for name, i, _ in targets if name == "refine"] == [
        i for i in left if i != "4" for _ in range(2)
    ]
    findings = [json.loads(line) for line in (out / "decontamination.jsonl").open()]
    assert [(one["problem_id"], one["reason"], one["found_in"]) for one in findings] == [
        ("p7", "ngram", str(tmp_path / "eval.jsonl")),
        ("p9", "duplicate", ""),
    ]
    card = json.loads((out / "card.json").read_text())
    assert card["dropped"] == {
        "direct target: truncated": 39,
        "direct target: unchecked": 39,
        "direct target: wrong": 39,
        "direct: no target": 1,
        "problem: duplicate": 1,
        "problem: ngram": 1,
        "refine target: truncated": 39,
        "refine target: unchecked": 39,
        "refine target: wrong": 39,
        "refine: no target": 1,
        "refine: problem left out": 2,
    }
    assert card["splits"]["train"]["by_source"] == {"teacher": 37 + 74}


def test_a_finished_build_is_done_again_only_for_other_inputs(
    arguments: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "set"
    run_build(*arguments)
    data = {file.name: file.read_bytes() for file in (out / "train").glob("*.arrow")}
    before = (out / "card.json").stat().st_mtime_ns
    assert "there already" in run_build(*arguments)
    assert (out / "card.json").stat().st_mtime_ns == before
    run_build(*arguments, "--max-tokens=16000")
    assert (out / "card.json").stat().st_mtime_ns > before
    run_build(*arguments)
    assert {file.name: file.read_bytes() for file in (out / "train").glob("*.arrow")} == data
    with (tmp_path / "direct.jsonl").open("a") as file:
        file.write('{"id": "p3", "sample": 0, "text": "three", "correct": true}\n')
    assert "there already" not in run_build(*arguments)
    assert "direct: no target" not in (out / "card.md").read_text()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("set.")] == []


def test_a_killed_build_goes_on_and_ends_the_same(qwen2: Path, tmp_path: Path) -> None:
    """SIGKILL as soon as some rows are written: no half set is seen, then or later."""
    problems = [
        {"id": f"p{i}", "problem": f"{i}?", "answer": "", "solution": f"{i} " * 400}
        for i in range(PART * 6)
    ]
    write_jsonl(tmp_path / "problems.jsonl", problems)
    command = ["hybrid", f"--problems={tmp_path / 'problems.jsonl'}", f"--model={qwen2}", "--mix=1"]
    out, parts = tmp_path / "killed", tmp_path / "killed.partial" / "parts"
    build = subprocess.Popen([sys.executable, "-m", "train.build", *command, f"--out={out}"])
    while build.poll() is None and not list(parts.glob("*.arrow")):
        time.sleep(0.002)
    build.kill()
    build.wait()
    assert not out.exists()
    run_build(*command, f"--out={out}")
    run_build(*command, f"--out={tmp_path / 'whole'}")
    data = [
        {file.name: file.read_bytes() for file in folder.glob("*/*.arrow")}
        for folder in (out, tmp_path / "whole")
    ]
    assert data[0] == data[1]


def test_unchecked_targets_are_an_option(arguments: list[str], tmp_path: Path) -> None:
    run_build(*arguments, "--keep-unchecked")
    dropped = json.loads((tmp_path / "set" / "card.json").read_text())["dropped"]
    assert "direct target: wrong" in dropped
    assert "direct target: unchecked" not in dropped


def test_own_solutions_are_targets_where_no_samples_are_given(
    arguments: list[str], tmp_path: Path
) -> None:
    problems = [
        {"id": f"p{i}", "problem": f"{i} + 1?", "answer": "", "solution": f"own {i}"}
        for i in range(NUM)
    ]
    write_jsonl(tmp_path / "problems.jsonl", problems)
    run_build(*(one for one in arguments if "-targets=" not in one))
    card = json.loads((tmp_path / "set" / "card.json").read_text())
    assert card["splits"]["train"]["by_kind"] == {"branched": 40, "direct": 40, "linear": 40}


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ("--layouts=spiral", "layouts"),
        ("--mix=2", "mix"),
        ("--held-out=1", "held_out"),
        ("--max-tokens=0", "max_tokens"),
        ("--ngram=0", "ngram"),
        ("--refine=nowhere.jsonl", "refine"),
        ("--direct-targets=nowhere", "direct_targets"),
        ("--decontaminate=nowhere.jsonl", "decontaminate"),
        ("--gsr=nowhere", "gsr"),
    ],
)
def test_bad_options_are_named(bad: str, field: str, arguments: list[str]) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field}:"):
        run_build(*arguments, bad)


def test_without_a_row_the_reason_is_told(arguments: list[str], tmp_path: Path) -> None:
    """No traceback, no set, and no folder of work is left."""
    plain = [one for one in arguments if "-targets=" not in one]
    with pytest.raises(
        InvalidRequest, match=r"38 problems have no target .*38 sets have no target"
    ):
        run_build(*plain)
    cut = [{"id": f"p{i}", "sample": 0, "text": "a", "finish_reason": "length"} for i in range(NUM)]
    write_jsonl(tmp_path / "cut.jsonl", cut)
    with pytest.raises(InvalidRequest, match="40 direct targets were cut at max_tokens"):
        run_build(*plain, f"--direct-targets={tmp_path / 'cut.jsonl'}")
    problems = tmp_path / "problems.jsonl"
    with pytest.raises(InvalidRequest, match=r"no row is left .*problems share n-grams"):
        run_build(*plain, f"--decontaminate={problems}", "--ngram=1")
    with pytest.raises(
        InvalidRequest, match=r"mix: is 0\.5, but .*--mix 1 takes direct rows alone"
    ):
        run_build("hybrid", f"--problems={problems}", "--model=none", f"--out={tmp_path / 'set'}")
    with pytest.raises(InvalidRequest, match=r"direct rows, but no refinement row .*--mix 1 takes"):
        run_build(*arguments, f"--refine-targets={tmp_path / 'cut.jsonl'}")
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_refinement_targets_answer_sets(arguments: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="refine_targets"):
        run_build(*(one for one in arguments if not one.startswith("--refine=")))
