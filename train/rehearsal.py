"""python -m train.rehearsal: the data and models of the recipe "rehearsal", in place of a hub's.

OUT/problems.jsonl      puzzles to learn from, with their answers, one a line
OUT/evaluation.jsonl    puzzles of a stream that is never trained on
OUT/wide                an untrained model with nano's tokenizer and prompts, but another shape
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoConfig, AutoModelForCausalLM

from gsr_engine.demo.puzzles import PuzzleStream, sample_puzzles
from gsr_engine.demo.report import NANO
from train.command import run_command
from train.files import replace_folder


def main(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    problems: Annotated[int, typer.Option(min=1, help="Puzzles to learn from.")] = 200,
    evaluation: Annotated[int, typer.Option(min=1, help="Puzzles to measure with.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the puzzles and the untrained model.")] = 0,
) -> None:
    """Write puzzles and an untrained model."""
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_puzzles(partial / "problems.jsonl", "train", problems, seed)
    _write_puzzles(partial / "evaluation.jsonl", "test", evaluation, seed)
    _write_wide_model(partial / "wide", seed)
    replace_folder(partial, out)


def _write_puzzles(file: Path, stream: PuzzleStream, count: int, seed: int) -> None:
    with file.open("w", encoding="utf-8") as lines:
        for index, puzzle in enumerate(sample_puzzles(stream, seed, count)):
            row = {"id": f"{stream}-{index}", "problem": puzzle.problem, "answer": puzzle.answer}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_wide_model(folder: Path, seed: int) -> None:
    """Copy nano's files, with a config that is twice as wide, and write random weights."""
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = AutoConfig.from_pretrained(NANO)
    config.update({"hidden_size": 2 * config.hidden_size, "head_dim": 2 * config.head_dim})
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


if __name__ == "__main__":
    run_command("rehearsal", lambda: typer.run(main))
