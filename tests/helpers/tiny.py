"""Some rows of every kind, a set of them on disk, and their losses by plain transformers."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.text.problem_prompts import ProblemPrompts
from gsr_engine.text.prompts import Prompts
from tests.helpers.checkpoints import load_oracle
from train.dataset import Example, Split, read_parts, write_part, write_split
from train.objectives import OBJECTIVES, objective_index
from train.rows import Row, branched_row, direct_row, linear_row
from train.trainer.attention import branch_mask
from train.trainer.config import SftConfig


def tools(folder: Path) -> tuple[Tokenizer, Prompts]:
    """A checkpoint's tokenizer and prompts."""
    tokenizer = Tokenizer.from_folder(folder)
    return tokenizer, Prompts(tokenizer, GsrConfig.from_folder(folder))


def make_examples(folder: Path, problems: int, seed: int = 0) -> list[Example]:
    """A direct, a linear and a branched row for each of some sums, with different lengths."""
    tokenizer, prompts = tools(folder)
    assert tokenizer.end_id is not None
    rng = random.Random(seed)
    examples = []
    for index in range(problems):
        one, other = rng.randrange(1000), rng.randrange(10)
        problem = ProblemPrompts(prompts, f"{one} + {other}")
        target = [*tokenizer.encode_text(f"it is {one + other}"), tokenizer.end_id]
        drafts = [f"{one + other + rng.randrange(2)}{'!' * rng.randrange(9)}" for _ in range(3)]
        summaries = [tokenizer.encode_text(draft) for draft in drafts]
        right = sum(draft.rstrip("!") == str(one + other) for draft in drafts)
        name = f"sum-{index}"
        linear = linear_row(problem, summaries, target)
        branched = branched_row(problem, summaries, target)
        examples += [
            Example(direct_row(problem, target), name, source="solver"),
            Example(linear, name, "linear", 3, right, "solver"),
            Example(branched, name, "branched", 3, right, "solver"),
        ]
    return examples


def write_set(
    folder: Path,
    model: Path,
    problems: int = 8,
    held_out: int = 0,
    more: Sequence[Example] = (),
) -> Path:
    """Write a set as the builder does; every split ends with `more`."""
    folder.mkdir(parents=True, exist_ok=True)
    splits: list[tuple[Split, int, int]] = [("train", problems, 0), ("held_out", held_out, 1)]
    for split, count, seed in splits:
        if count:
            part = folder / f"{split}.arrow"
            write_part(part, [*make_examples(model, count, seed), *more])
            write_split(folder, split, read_parts([part]))
    gsr = replace(
        GsrConfig.from_folder(model), layouts=("linear", "branched"), num_candidates=(3, 3)
    )
    gsr.save(folder)
    digest = hashlib.sha256((model / "tokenizer.json").read_bytes()).hexdigest()
    (folder / "card.json").write_text(json.dumps({"tokenizer_hash": digest}))
    return folder


def tiny_config(model: Path, data: Path, out: Path, **settings: object) -> SftConfig:
    """Settings for a CPU; a pack holds several rows of the test checkpoints."""
    usual = {"dtype": "float32", "pack": 2000, "batch": 6, "lr": 1e-3, "warmup": 2.0, "epochs": 1.0}
    return SftConfig(model=str(model), data=data, out=out, **{**usual, **settings})  # type: ignore[arg-type]


def plain_losses(
    folder: Path, rows: Sequence[Row], norm: str = "each"
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss per objective and gradients of their weighted sum, by transformers alone, row by row.

    Eager attention under the row's own dense mask; with "token", both are divided by all targets.
    """
    model = load_oracle(folder).train()
    sums = [torch.zeros(()) for _ in OBJECTIVES]
    counts = torch.zeros(len(OBJECTIVES))
    for row in rows:
        ids = torch.tensor([list(row.token_ids)])
        unseen = ~branch_mask(torch.from_numpy(row.branches))
        mask = torch.zeros(unseen.shape).masked_fill_(unseen, torch.finfo().min)
        positions = torch.from_numpy(row.positions)[None]
        logits = model(ids, attention_mask=mask, position_ids=positions).logits[0]
        objective = objective_index(row.objective)
        predicted, targets = logits[row.target_start - 1 : -1], ids[0, row.target_start :]
        sums[objective] = sums[objective] + F.cross_entropy(predicted, targets, reduction="sum")
        counts[objective] += row.num_targets
    losses = torch.stack(sums)
    divisors = counts.clamp_min(1) if norm == "each" else counts.sum().expand(len(OBJECTIVES))
    weights = torch.tensor([objective.weight for objective in OBJECTIVES])
    (weights * losses / divisors).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return (losses / counts.clamp_min(1)).detach(), gradients
