"""The examples run: a file of problems, two engines, a recipe of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gsr_engine import Engine, SamplingParams, SelfRefineParams
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from tests.examples.offline_batch import read_lines, solve_file
from tests.examples.refine_elsewhere import refine_elsewhere, show
from tests.helpers.tiny import write_set
from train.recipe import find_recipe, read_recipe
from train.sft import parse, train
from train.trainer.config import SftConfig

pytestmark = pytest.mark.slow

RECIPE = Path(__file__).parent / "custom_recipe.toml"
PROBLEMS = [puzzle.problem for puzzle in sample_puzzles("test", 3, 2)]
SHORT = 40  # tokens: no puzzle is solved in them, but each stage is passed
PARAMS = SelfRefineParams(
    k=2,
    seed=0,
    candidate=SamplingParams(max_tokens=SHORT),
    refine=SamplingParams(temperature=0.0, max_tokens=SHORT),
)


def test_a_file_of_problems_is_answered_and_goes_on_where_it_was(tmp_path: Path) -> None:
    source, out = tmp_path / "problems.jsonl", tmp_path / "results.jsonl"
    problems = [*PROBLEMS, ""]
    source.write_text("".join(json.dumps({"problem": one}) + "\n" for one in problems))
    with Engine.from_pretrained(NANO) as engine:
        assert solve_file(engine, source, out, PARAMS) == 3
        results = {result["line"]: result for result in read_lines(out)}
        assert solve_file(engine, source, out, PARAMS) == 0
        out.write_text(json.dumps(results[1]) + "\n")  # interrupted: the others are missing
        assert solve_file(engine, source, out, PARAMS) == 2
        expected = engine.self_refine(PROBLEMS, PARAMS)
    again = {result["line"]: result for result in read_lines(out)}
    for line, result in enumerate(expected):
        assert (result.text, result.answer) == (again[line]["text"], again[line]["answer"])
        assert results[line]["text"] == result.text
    assert again[2] == results[2] == {"line": 2, "answer": None, "error": "problem: is empty"}


def test_another_model_refines(capsys: pytest.CaptureFixture[str]) -> None:
    results = refine_elsewhere(NANO, NANO, PROBLEMS[:2], PARAMS)
    assert [len(result.candidates) for result in results] == [2, 2]
    assert all(result.error is None and result.refinement for result in results)
    show(results[0])
    assert f"answer: {results[0].answer}" in capsys.readouterr().out


def test_a_recipe_of_ones_own_shares_the_stages_before_it_and_trains(
    qwen2: Path, tmp_path: Path
) -> None:
    own, base = (
        {stage.name: stage for stage in read_recipe(path)}
        for path in (RECIPE, find_recipe("rehearsal"))
    )
    shared = [name for name in own if own[name].key == base[name].key]
    assert shared == ["material", "evaluation", "problems", "candidates"]
    changed = [stage.options["out"] for stage in own.values() if stage.name not in shared]
    assert len({*changed, *(stage.options["out"] for stage in base.values())}) == len(base) + 5
    config, _ = parse(own["sft"].command(1)[3:])
    data = write_set(tmp_path / "hybrid", qwen2, problems=2)
    small = {"model": str(qwen2), "data": str(data), "out": str(tmp_path / "sft"), "steps": 1}
    train(SftConfig.from_dict({**config.as_dict(), **small}))
    assert (tmp_path / "sft" / "model" / "gsr.json").exists()
