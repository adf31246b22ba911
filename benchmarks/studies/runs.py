"""The runs of the studies: which model, which problems, which methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.accuracy.config import AccuracyConfig
from benchmarks.accuracy.engine_generator import EngineGenerator
from benchmarks.accuracy.run import Weak, measure
from benchmarks.nano.promises import MAX_TOKENS, TEST_SEED
from benchmarks.samples.folder import Run
from benchmarks.studies.variants import train_variant
from benchmarks.tasks.registry import find_task
from benchmarks.tasks.task import BenchmarkProblem, Source
from gsr_engine import Engine
from gsr_engine.checkpoint.digest import tokenizer_digest, weights_digest
from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.demo.puzzles import Mix, sample_puzzles
from gsr_engine.errors import InvalidRequest
from train.command import show_log

CHAT = "chat"
"""The model of a run that is not trained here: a chat model that never learnt to refine."""
CHAT_PROMPTS = Path(__file__).with_name("chat.gsr.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRun:
    """One run, by the accuracy benchmark.

    Attributes:
        name: of its folder.
        model: a variant; "variant/stage" is the model after that stage; `CHAT` is none of ours.
        weak: the variant, or stage, that writes the weak candidates of mixed pools.
        puzzles: what is asked, of the stream that nothing was trained on; None takes all kinds.
        task: asked instead of puzzles, as `--task` names it.
        count: problems.
        options: of `AccuracyConfig`.
    """

    name: str
    model: str
    weak: str | None = None
    puzzles: Mix | None = None
    task: str | None = None
    count: int = 500
    options: Mapping[str, Any] = field(default_factory=dict)

    def problems(self) -> list[BenchmarkProblem]:
        """What is asked."""
        if self.task is not None:
            return find_task(self.task).load(Source(count=self.count, seed=TEST_SEED))
        return [
            BenchmarkProblem(
                id=f"test-{TEST_SEED}-{index}", text=one.problem, gold=one.answer, size=one.size
            )
            for index, one in enumerate(sample_puzzles("test", TEST_SEED, self.count, self.puzzles))
        ]

    def config(self) -> AccuracyConfig:
        """How it is asked."""
        return AccuracyConfig(**{"seed": TEST_SEED, "max_tokens": MAX_TOKENS, **self.options})


def do_run(run: StudyRun, out: Path, chat: str | None) -> Run:
    """The finished run; models and samples that are missing are made.

    Args:
        run: what is measured.
        out: folder of the studies.
        chat: folder or hub id of the model called `CHAT`.

    Raises:
        InvalidRequest: the run needs a chat model, and there is none.
    """
    folder, problems, config = model_folder(run.model, out, chat), run.problems(), run.config()
    task = find_task(run.task or "puzzles")
    about: dict[str, Any] = {
        "task": task.name,
        "data": f"{run.count} of the seed {TEST_SEED}",
        "model": run.model if run.model != CHAT else str(chat),
        "weights": weights_digest(folder),
        "tokenizer": tokenizer_digest(folder),
    }
    weak_folder = None if run.weak is None else model_folder(run.weak, out, chat)
    if weak_folder is not None:
        about |= {"weak_model": run.weak, "weak_weights": weights_digest(weak_folder)}
    show_log(f"{run.name}: ")
    with (
        _engine(run, folder) as engine,
        _weak(run, weak_folder, problems, config) as weak,
        task.grader(engine.gsr) as grader,
    ):
        generator = EngineGenerator(engine, problems, config)
        return measure(generator, problems, grader, config, out / "runs" / run.name, about, weak)


def model_folder(name: str, out: Path, chat: str | None) -> Path:
    """The checkpoint of a name, which is trained if it is missing."""
    if name == CHAT:
        if chat is None:
            raise InvalidRequest("chat", "must name a chat model: this question asks one")
        return find_checkpoint(chat)
    variant, _, stage = name.partition("/")
    return train_variant(variant, out) / stage / "model"


@contextmanager
def _weak(
    run: StudyRun,
    folder: Path | None,
    problems: Sequence[BenchmarkProblem],
    config: AccuracyConfig,
) -> Iterator[Weak | None]:
    """The writer of weak candidates, if there is one; nano's variants share a tokenizer."""
    if folder is None:
        yield None
        return
    with _engine(run, folder) as engine:
        yield Weak(EngineGenerator(engine, problems, config), same_tokens=True)


def _engine(run: StudyRun, folder: Path) -> Engine:
    chat = run.model == CHAT
    return Engine.from_pretrained(
        folder,
        dtype="float32",
        quantization="int8" if chat else "none",
        template=CHAT_PROMPTS if chat else None,
        generation_config="none",
        prefix_cache=False,  # each method pays for its own prompts
    )
