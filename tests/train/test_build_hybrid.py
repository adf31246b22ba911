"""The hybrid set: its rows are what the engine shows, its counts add up, and it is whole."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsr_engine import Engine, InvalidRequest, SamplingParams, SelfRefineParams
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.programs.template import TEMPLATES
from tests.engine.test_self_refine import with_gsr
from train.dataset import RowSet
from train.hybrid.candidate_sets import SetConfig, draw_sets, uniform_weights
from train.hybrid.hybrid_set import build_hybrid
from train.hybrid.inputs import HybridConfig, Ingredients
from train.hybrid.splits import choose_rows, is_held_out, mixed_counts
from train.hybrid.student import Student
from train.problems import Problem
from train.samples import Sample

pytestmark = pytest.mark.slow

NUM = 60


@pytest.fixture(scope="module")
def folder(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose template restates the problem."""
    root = tmp_path_factory.mktemp("student")
    template = TEMPLATES["restated"]
    return with_gsr(checkpoints["qwen2"], root / "c", template=template, refine_position="fork")


@pytest.fixture(scope="module")
def student(folder: Path) -> Student:
    return Student(folder)


def ingredients(student: Student, count: int = NUM) -> Ingredients:
    """Problems with solutions, and two sets of each."""
    problems = [Problem(f"p{i}", f"{i} + 1?", str(i + 1), f"it is {i + 1}") for i in range(count)]
    samples = [
        Sample(
            id="p", index=j, text=f"<think>hm</think>{'so ' * j}{j}", answer=str(j), correct=j == 1
        )
        for j in range(6)
    ]
    config = SetConfig(weights=uniform_weights("2-4"), sets=2, easy=None)
    sets = list(draw_sets(problems, lambda _: samples, student, config, Counter()))
    return Ingredients(problems=problems, sets=sets)


def all_rows(folder: Path) -> list[tuple[Any, ...]]:
    """Every row of every split, whatever is around them."""
    return [
        (split, rows.objectives[i], rows.layouts[i], rows[i].target_start, *rows[i].token_ids)
        for split in ("train", "held_out")
        if (folder / split).exists()
        for rows in [RowSet.load(folder, split)]
        for i in range(len(rows))
    ]


def shown_by_engine(engine: Engine, layout: str, problem: str, texts: list[str]) -> Any:
    """The tokens that the engine's refinement of these candidates sees, and its own position."""
    params = SelfRefineParams(
        layout=layout,  # type: ignore[arg-type]
        order="as_generated",
        refine=SamplingParams(max_tokens=1),
        seed=0,
    )
    request = engine.new_self_refine(problem, params, candidates=texts)
    engine.submit(request)
    while engine.has_work:
        engine.step()
    assert request.refinement
    segment = request.refinement.segment
    return [token for span in segment.context for token in span.token_ids], segment.position


def test_rows_are_what_the_engine_shows(student: Student, tmp_path: Path) -> None:
    """Prompt ids and the target's position, in both layouts and for direct rows; targets decode."""
    made = ingredients(student, 6)
    build_hybrid(made, student, HybridConfig(held_out=0, mix=1 / 5), tmp_path / "set")
    rows = RowSet.load(tmp_path / "set")
    assert Counter(rows.layouts) == {"": 6, "linear": 12, "branched": 12}
    refined = [i for i, layout in enumerate(rows.layouts) if layout]
    with Engine.from_pretrained(student.folder) as engine:
        for place, i in enumerate(refined):
            row, shown = rows[i], made.sets[place // 2]
            seen = shown_by_engine(engine, rows.layouts[i], shown.problem, shown.candidates)
            assert seen == (
                list(row.token_ids[: row.target_start]),
                row.positions[row.target_start],
            )
        direct = [rows[i] for i, layout in enumerate(rows.layouts) if not layout]
        for row, problem in zip(direct, made.problems, strict=True):
            assert list(row.token_ids[: row.target_start]) == engine.direct_prompt(problem.text)
            target = list(row.token_ids[row.target_start :])
            assert target == [*student.tokenizer.encode_text(problem.solution), target[-1]]
            assert target[-1] == student.tokenizer.end_id


def test_the_set_says_what_it_was_made_for(student: Student, tmp_path: Path) -> None:
    config = HybridConfig(held_out=0, layouts=("branched",))
    build_hybrid(ingredients(student), student, config, tmp_path / "set")
    gsr = GsrConfig.from_folder(tmp_path / "set")
    assert (gsr.layouts, gsr.num_candidates) == (("branched",), (2, 4))
    assert gsr.template == student.gsr.template
    assert gsr.refine_position == "fork"
    config = HybridConfig(held_out=0, mix=1)
    build_hybrid(ingredients(student), student, config, tmp_path / "set")
    direct = GsrConfig.from_folder(tmp_path / "set")
    assert (direct.trained, direct.layouts, direct.num_candidates) == (False, ("linear",), None)
    assert direct.template == student.gsr.template


@given(direct=st.integers(0, 5000), refine=st.integers(0, 5000), mix=st.floats(0, 1))
def test_the_mix_is_exact_to_a_row_and_one_side_is_whole(
    direct: int, refine: int, mix: float
) -> None:
    kept = mixed_counts(direct, refine, mix)
    assert 0 <= kept[0] <= direct
    assert 0 <= kept[1] <= refine
    assert kept[0] == direct or kept[1] == refine
    assert abs(kept[0] - mix * sum(kept)) <= 0.5 + 1e-6


@given(
    direct=st.integers(0, 5000),
    refine=st.integers(0, 5000),
    mix=st.floats(0, 1),
    rows=st.integers(1, 12_000),
)
def test_rows_are_capped_in_the_same_mix(direct: int, refine: int, mix: float, rows: int) -> None:
    kept, whole = mixed_counts(direct, refine, mix, rows), mixed_counts(direct, refine, mix)
    if sum(whole) <= rows:
        assert kept == whole
    else:
        assert sum(kept) == rows
        assert 0 <= kept[0] <= whole[0]
        assert 0 <= kept[1] <= whole[1]
        assert abs(kept[0] - mix * rows) <= 1 + 1e-6


@pytest.mark.parametrize(("mix", "expected"), [(0.5, (60, 60)), (0.2, (60, 240)), (0, (0, 240))])
def test_rows_are_mixed(
    mix: float, expected: tuple[int, int], student: Student, tmp_path: Path
) -> None:
    config = HybridConfig(mix=mix, held_out=0)
    build_hybrid(ingredients(student), student, config, tmp_path / "set")
    counts = Counter(RowSet.load(tmp_path / "set").objectives)
    assert (counts["direct"], counts["refine"]) == expected


def test_in_turn_layouts_weigh_as_often_as_they_are_named(student: Student, tmp_path: Path) -> None:
    layouts = ("linear", "branched", "branched")
    config = HybridConfig(layouts=layouts, in_turn=True, held_out=0, mix=1 / 3)
    build_hybrid(ingredients(student), student, config, tmp_path / "set")
    assert Counter(RowSet.load(tmp_path / "set").layouts) == {"": 60, "linear": 40, "branched": 80}
    with pytest.raises(InvalidRequest, match="layouts"):
        HybridConfig(layouts=layouts)


def test_held_out_problems_are_in_one_split_only(student: Student, tmp_path: Path) -> None:
    build_hybrid(ingredients(student), student, HybridConfig(held_out=0.3), tmp_path / "set")
    splits = {}
    for name in ("train", "held_out"):
        rows = datasets.load_from_disk(str(tmp_path / "set" / name))
        splits[name] = set(rows["problem_id"])
    assert splits["train"] | splits["held_out"] == {f"p{i}" for i in range(NUM)}
    assert not splits["train"] & splits["held_out"]
    assert 5 < len(splits["held_out"]) < 35
    assert splits["held_out"] == {f"p{i}" for i in range(NUM) if is_held_out(f"p{i}", 0.3)}


def test_long_rows_are_dropped_and_counted(student: Student, tmp_path: Path) -> None:
    made = ingredients(student)
    build_hybrid(made, student, HybridConfig(held_out=0, mix=0.2), tmp_path / "all")
    lengths = RowSet.load(tmp_path / "all").lengths
    limit = int(np.median(lengths))
    config = HybridConfig(held_out=0, mix=0.2, max_tokens=limit)
    build_hybrid(made, student, config, tmp_path / "set")
    card = json.loads((tmp_path / "set" / "card.json").read_text())
    assert RowSet.load(tmp_path / "set").lengths.max() <= limit
    dropped = card["dropped"]
    too_long = dropped.get("direct: too long", 0) + dropped["refine: too long"]
    assert too_long == (lengths > limit).sum() > 0
    with pytest.raises(InvalidRequest, match=r"no row is left .* 60 direct rows are too long"):
        build_hybrid(made, student, HybridConfig(max_tokens=1), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_cards_counts_add_up(student: Student, tmp_path: Path) -> None:
    build_hybrid(ingredients(student), student, HybridConfig(held_out=0.2), tmp_path / "set")
    card = json.loads((tmp_path / "set" / "card.json").read_text())
    for name, told in card["splits"].items():
        rows = RowSet.load(tmp_path / "set", name)
        refined = sum(layout != "" for layout in rows.layouts)
        assert told["rows"] == len(rows) == sum(told["by_kind"].values())
        assert sum(told["by_source"].values()) == len(rows)
        assert sum(told["by_k"].values()) == sum(told["by_num_correct"].values()) == refined
        assert told["tokens"] == rows.lengths.sum()
        assert told["target_tokens"] == rows.num_targets.sum()
        assert told["by_num_correct"]["1"] == sum(
            correct == 1
            for correct, layout in zip(rows.num_correct, rows.layouts, strict=True)
            if layout
        )
    made = sum(told["rows"] for told in card["splits"].values())
    assert made + card["dropped"]["refine: mix"] == NUM + 2 * 2 * NUM
    assert card["template_hash"] == student.gsr.template.hash
    assert "| branched |" in (tmp_path / "set" / "card.md").read_text()


def test_processes_and_interruptions_do_not_change_the_set(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes, and a build that is broken off and goes on, against one in one go."""
    monkeypatch.setattr("train.hybrid.materials.PART", 25)
    made = ingredients(student)
    config = HybridConfig(held_out=0.1)
    whole = build_hybrid(made, student, config, tmp_path / "whole")
    both = build_hybrid(made, student, config, tmp_path / "both", processes=2)
    assert all_rows(both) == all_rows(whole)

    asked: list[str] = []

    def broken(prompt: str, problem: Problem) -> Any:
        asked.append(prompt)
        if prompt.startswith("p40#0-"):
            raise KeyboardInterrupt
        return made.refine_target(prompt, problem)

    out = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        build_hybrid(replace(made, refine_target=broken), student, config, out, fingerprint="f")
    assert not out.exists()
    parts = sorted((tmp_path / "again.partial" / "parts").iterdir())
    before = [part.stat().st_mtime_ns for part in parts]
    assert len(parts) == (NUM + 80) // 25
    after: list[int] = []

    def looked_at(*arguments: Any) -> Any:
        after.extend(part.stat().st_mtime_ns for part in parts)
        return choose_rows(*arguments)

    monkeypatch.setattr("train.hybrid.hybrid_set.choose_rows", looked_at)
    build_hybrid(made, student, config, out, fingerprint="f")
    assert after == before
    assert all_rows(out) == all_rows(whole)
    assert not (tmp_path / "again.partial").exists()


def test_a_build_killed_between_the_splits_leaves_the_old_set(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    build_hybrid(ingredients(student), student, HybridConfig(held_out=0.2), out)
    before = all_rows(out)
    from train.dataset import write_split

    def broken(folder: Path, split: str, rows: Any) -> None:
        if split == "held_out":
            raise KeyboardInterrupt
        write_split(folder, "train", rows)

    monkeypatch.setattr("train.hybrid.hybrid_set.write_split", broken)
    config = HybridConfig(held_out=0.2, layouts=("linear",))
    with pytest.raises(KeyboardInterrupt):
        build_hybrid(ingredients(student), student, config, out)
    assert all_rows(out) == before
    monkeypatch.undo()
    build_hybrid(ingredients(student), student, config, out)
    assert set(RowSet.load(out).layouts) == {"", "linear"}


def test_another_tokenizers_candidates_are_read_as_text(student: Student, tmp_path: Path) -> None:
    made = ingredients(student, 4)
    foreign = [
        replace(one, tokenizer="other", candidate_ids=[[1]] * len(one.candidates))
        for one in made.sets
    ]
    config = HybridConfig(held_out=0)
    build_hybrid(made, student, config, tmp_path / "own")
    build_hybrid(replace(made, sets=foreign), student, config, tmp_path / "foreign")
    assert all_rows(tmp_path / "own") == all_rows(tmp_path / "foreign")
    cards = [json.loads((tmp_path / one / "card.json").read_text()) for one in ("own", "foreign")]
    assert [one["sets_encoded_from_text"] for one in cards] == [{}, {"another tokenizer": 8}]
    assert "another tokenizer" in (tmp_path / "foreign" / "card.md").read_text()


def test_thinking_begins_where_the_prompt_leaves_off(qwen2: Path, tmp_path: Path) -> None:
    """A teacher whose template opens the thinking writes no opening tag of its own."""
    student = Student(qwen2)
    plain = [student.tokenizer.decode(student.target(text)) for text in ("hm</think>5", "5")]
    assert plain == ["<think>\nhm</think>5", "5"]
    assert student.target("<think>\nhm</think>5") == student.target("hm</think>5")
    opened = with_gsr(qwen2, tmp_path / "opened")
    template = opened / "chat_template.jinja"
    text = template.read_text().replace("assistant\n", "assistant\n<think>\n")
    template.unlink()  # it is a link
    template.write_text(text)
    thinks = Student(opened)
    for text in ("<think>\nhm</think>5", "hm</think>5"):
        assert thinks.tokenizer.decode(thinks.target(text)) == "hm</think>5"


def test_branched_rows_are_not_made_for_an_engine_that_shows_more(
    student: Student, tmp_path: Path
) -> None:
    other = Student(student.folder, replace(student.gsr, candidate_kv="as_generated"))
    made = ingredients(student, 9)
    with pytest.raises(InvalidRequest, match="candidate_kv"):
        build_hybrid(made, other, HybridConfig(), tmp_path / "branched")
    build_hybrid(made, other, HybridConfig(layouts=("linear",)), tmp_path / "linear")
