"""A generation run as plain values, from which each process opens its own worker."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from gsr_engine import Engine
from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.errors import InvalidRequest
from train.generation.drawer import DrawConfig, Drawer
from train.generation.endpoint_drawer import EndpointDrawer
from train.generation.engine_drawer import EngineDrawer
from train.generation.questions import Question, direct_prompts, load_refine_prompts
from train.generation.store import SHARD_SIZE, Store
from train.generation.worker import Report, Tally, generate
from train.grading import grader_for
from train.problems import load_problems

Task = Literal["direct", "refine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationJob:
    """What is drawn, by whom, and where it goes. It can be pickled.

    Attributes:
        task: "direct" solves problems, "refine" refines the sets that `train.build refine` wrote.
        data: a path or hub id of problems, or the file of the sets.
        columns, split: as in `load_problems`.
        limit: only the first prompts.
        model: folder or hub id of a checkpoint; with `base_url` the server's name for it.
        prompts: folder of a checkpoint whose `gsr.json` has the texts around problems, for a
            server; None takes the built-in ones. This engine takes those of its checkpoint.
        n: samples per prompt.
        sampling: fields of `DrawConfig` besides the model and the template.
        out, shard_size, lease_seconds, retry_failed: as in `Store`.
        engine: options of `Engine.from_pretrained`.
        base_url: of a server; None runs this engine.
        endpoint: options of `EndpointDrawer`.
        budget: as in `generate`, for each worker.
    """

    task: Task
    data: str
    model: str
    out: Path
    n: int
    columns: dict[str, str]
    split: str
    limit: int | None
    prompts: Path | None
    sampling: dict[str, Any]
    shard_size: int = SHARD_SIZE
    lease_seconds: float = 300.0
    retry_failed: bool = False
    engine: dict[str, Any]
    base_url: str | None
    endpoint: dict[str, Any]
    budget: int | None

    def gsr(self) -> GsrConfig:
        """The texts around problems, and how answers are found."""
        if self.base_url is None:
            if self.prompts is not None:
                raise InvalidRequest(
                    "prompts", "is for a server; an engine's checkpoint has its own"
                )
            return GsrConfig.from_folder(find_checkpoint(self.model, weights=False))
        return GsrConfig() if self.prompts is None else GsrConfig.from_folder(self.prompts)

    def config(self) -> DrawConfig:
        """What shapes the samples."""
        return DrawConfig(model=self.model, template=self.gsr().template.hash, **self.sampling)

    def load_prompts(self) -> list[Question]:
        """What is asked, in order."""
        if self.task == "direct":
            problems = load_problems(self.data, self.columns, self.split)
            return direct_prompts(problems)[: self.limit]
        return load_refine_prompts(Path(self.data))[: self.limit]

    def open_store(self) -> Store:
        """The store, for one worker or to look at."""
        return Store(
            self.out,
            self.config(),
            self.load_prompts(),
            self.n,
            shard_size=self.shard_size,
            lease_seconds=self.lease_seconds,
            retry_failed=self.retry_failed,
        )


class GenerationWorker:
    """A store, a source and a grader, opened from a job. Use it as a context manager."""

    def __init__(self, job: GenerationJob) -> None:
        self._job = job
        self.store = job.open_store()
        with ExitStack() as stack:
            self._grader = stack.enter_context(grader_for(job.gsr()))
            self._source = self._open_source(stack)
            self._stack = stack.pop_all()

    def _open_source(self, stack: ExitStack) -> Drawer:
        job = self._job
        if job.base_url is None:
            options = {**job.engine, "prefix_cache": False}
            engine = stack.enter_context(Engine.from_pretrained(job.model, **options))
            return EngineDrawer(engine, self.store.config)
        source = EndpointDrawer(self.store.config, job.gsr(), job.base_url, **job.endpoint)
        return stack.enter_context(source)

    def run(self, shards: Sequence[int] | None = None, report: Report | None = None) -> Tally:
        """As `generate`; it can be called again."""
        return generate(
            self.store,
            self._source,
            self._grader,
            shards=shards,
            budget=self._job.budget,
            report=report,
        )

    def close(self) -> None:
        """Give model, connections and grader back."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
