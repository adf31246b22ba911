"""What is measured: subjects, which are models, and sizes of work."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Self

import torch
import typer

from benchmarks.quantization.texts import contexts
from benchmarks.random_weights import SHAPES, random_problems, write_checkpoint
from benchmarks.throughput.ours import RefineWork
from benchmarks.throughput.word_problems import word_problems
from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.model.linear import compute_dtype

_SIZE = re.compile(r"(\d+)x(\d+):(\d+)/(\d+)/(\d+)")


@dataclass(frozen=True, slots=True)
class WorkSize:
    """Problems, candidates per problem, and tokens of a problem, a candidate, a refinement.

    Texts of natural length have 0 tokens of a problem; the others are then the most that are drawn.
    """

    problems: int
    k: int
    prompt: int
    candidate: int
    refine: int

    @classmethod
    def parsed(cls, text: str, *, natural: bool = False) -> Self:
        """From text such as 8x8:128/128/128, which `str` gives back.

        Args:
            text: the size.
            natural: whether problems have the length of their texts.

        Raises:
            typer.BadParameter: the text is no such size, a number is too small, or it gives
                problems of natural length another one, or other problems none.
        """
        match = _SIZE.fullmatch(text)
        if not match:
            raise typer.BadParameter(f"{text!r} is no work such as 8x8:128/128/128")
        size = cls(*map(int, match.groups()))
        if natural and size.prompt:
            raise typer.BadParameter(f"{text}: problems have the length of their texts: give 0")
        if not natural and not size.prompt:
            raise typer.BadParameter(f"{text}: problems of 0 tokens are for --speculative only")
        if not size.problems:
            raise typer.BadParameter(f"{text}: there must be a problem")
        if size.k < 2 or size.candidate < 2 or size.refine < 2:
            raise typer.BadParameter(f"{text}: k and lengths of answers must be 2 or more")
        return size

    def __str__(self) -> str:
        return f"{self.problems}x{self.k}:{self.prompt}/{self.candidate}/{self.refine}"

    @property
    def words(self) -> str:
        """As the title of a table."""
        problems = "1 problem" if self.problems == 1 else f"{self.problems} problems"
        return (
            f"selfRef@{self.k}, {problems} of {self.prompt} tokens, candidates of "
            f"{self.candidate}, refinements of {self.refine}"
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to measure.

    Attributes:
        name: in tables and of folders.
        folder: of the checkpoint.
        is_real: its weights are trained and its tokenizer is its own.
    """

    name: str
    folder: Path
    is_real: bool

    def work(
        self,
        size: WorkSize,
        dtype: str,
        kv_gib: float,
        losses: bool = False,
        device: str = "cpu",
    ) -> RefineWork:
        """The work of a size on this model, with torch's threads.

        With `losses` it has texts whose loss is measured, unless weights are random.

        End tokens are never drawn from a real model; random weights rarely draw them, so there
        they are ignored.
        """
        texts: list[list[int]] = []
        if self.is_real:
            tokenizer = Tokenizer.from_folder(self.folder)
            problems = word_problems(size.problems, size.prompt, tokenizer)
            if losses:
                texts = list(chain.from_iterable(contexts(tokenizer).values()))
        else:
            problems = random_problems(size.problems, size.prompt)
        return RefineWork(
            model=self.folder,
            problems=problems,
            k=size.k,
            candidate_tokens=size.candidate,
            refine_tokens=size.refine,
            dtype=chosen_dtype(dtype, device),
            threads=torch.get_num_threads(),
            kv_gib=kv_gib,
            ignore_eos=not self.is_real,
            texts=texts,
            device=device,
        )


def chosen_dtype(name: str, device: str = "cpu") -> str:
    """What "auto" stands for: bfloat16 on a GPU and where the CPU multiplies it; others stay."""
    auto = "bfloat16"
    if device == "cpu":
        auto = str(compute_dtype(torch.bfloat16)).removeprefix("torch.")
    return auto if name == "auto" else name


def subjects(shapes: str, model: Path | None, device: str = "cpu") -> list[Subject]:
    """Random weights of the shapes, separated by commas, and the checkpoint in a folder.

    Weights that no folder holds yet are drawn on the device: a CPU takes minutes for 7B.

    Raises:
        typer.BadParameter: an unknown shape.
        CheckpointError: the folder holds no checkpoint.
    """
    names = selected(shapes, tuple(SHAPES), "shape")
    found = [Subject(name, write_checkpoint(name, device=device), is_real=False) for name in names]
    if model is not None:
        found.append(Subject(model.name, find_checkpoint(model), is_real=True))
    return found


def selected(names: str, known: tuple[str, ...], option: str) -> list[str]:
    """Names separated by commas.

    Raises:
        typer.BadParameter: one of them is not known.
    """
    chosen = [name for name in names.split(",") if name]
    if unknown := [name for name in chosen if name not in known]:
        raise typer.BadParameter(f"{option}: {unknown[0]!r} is none of {', '.join(known)}")
    return chosen
