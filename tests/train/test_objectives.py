"""One more objective is one more line of the list: it is mixed, learnt, logged and reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gsr_engine import InvalidRequest
from tests.helpers.tiny import make_examples, plain_losses, tiny_config, write_set
from train.dataset import Example, read_parts, write_part
from train.hybrid.data_card import describe
from train.hybrid.inputs import HybridConfig
from train.hybrid.splits import choose_rows
from train.objectives import OBJECTIVES, Objective, objective_index
from train.sft import train
from train.trainer.report import read_log

pytestmark = pytest.mark.slow


@pytest.fixture
def critique() -> Iterator[Objective]:
    """A third objective, which weighs half as much as the others."""
    objective = Objective("critique", weight=0.5)
    OBJECTIVES.append(objective)
    yield objective
    OBJECTIVES.remove(objective)


def critique_examples(model: Path, problems: int) -> list[Example]:
    """Rows that show no candidates, as direct ones do, under the third objective's name."""
    direct = [one for one in make_examples(model, problems, seed=2) if not one.layout]
    return [replace(one, row=replace(one.row, objective="critique")) for one in direct]


def test_a_third_objective_is_one_line_and_trains(
    critique: Objective, qwen2: Path, tmp_path: Path
) -> None:
    more = critique_examples(qwen2, 8)
    data = write_set(tmp_path / "data", qwen2, problems=4, held_out=2, more=more)
    rows = [one.row for one in [*make_examples(qwen2, 4), *more]]
    config = tiny_config(qwen2, data, tmp_path / "run", steps=1, batch=len(rows), log_every=1)
    train(config)
    expected, gradients = plain_losses(qwen2, rows)
    training, held_out = read_log(config.out / "log.jsonl")
    assert len(expected) == 3
    for objective, loss in zip(OBJECTIVES, expected, strict=True):
        assert training[f"loss_{objective.name}"] == pytest.approx(float(loss), abs=1e-4)
        assert held_out[f"held_out_{objective.name}"] > 0
    assert training["loss"] == pytest.approx(float(expected @ torch.tensor([1, 1, 0.5])), abs=1e-4)
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert training["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert training["rows"] == {"direct": 4, "linear": 4, "branched": 4, "critique": 8}
    report = (config.out / "report.md").read_text()
    for fact in ("| loss critique, last |", "| held out critique |", "| critique rows | 8 |"):
        assert fact in report


def test_a_third_objective_is_mixed_and_counted(
    critique: Objective, qwen2: Path, tmp_path: Path
) -> None:
    """`mix` is the share of direct rows; the others share the rest."""
    write_part(tmp_path / "0.arrow", [*make_examples(qwen2, 4), *critique_examples(qwen2, 8)])
    rows = read_parts([tmp_path / "0.arrow"])
    dropped: Counter[str] = Counter()
    chosen = choose_rows(rows, HybridConfig(mix=0.4, held_out=0), dropped)["train"]
    split = rows.select(chosen)
    learnt = Counter(split["objective"])
    assert learnt["direct"] == 4
    assert learnt["refine"] + learnt["critique"] == 6
    assert dropped == {"refine: mix": 8 - learnt["refine"], "critique: mix": 8 - learnt["critique"]}
    card = describe({"train": split}, dropped)["splits"]["train"]
    assert card["by_kind"]["critique"] == learnt["critique"]
    assert sum(card["by_k"].values()) == learnt["refine"]


def test_rows_of_an_unknown_objective_are_refused(qwen2: Path, tmp_path: Path) -> None:
    data = write_set(tmp_path / "data", qwen2, problems=1, more=critique_examples(qwen2, 1))
    with pytest.raises(InvalidRequest, match="objective: must be one of direct, refine"):
        train(tiny_config(qwen2, data, tmp_path / "run", steps=1))
    assert objective_index("refine") == 1
