"""The models of a run, opened from its options: who writes, who refines, who judges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accuracy.config import AccuracyConfig
from benchmarks.accuracy.endpoint_generator import EndpointGenerator
from benchmarks.accuracy.engine_generator import EngineGenerator
from benchmarks.accuracy.generator import Generator
from benchmarks.accuracy.refined_by import RefinedBy
from benchmarks.accuracy.reward_model import RewardModel
from benchmarks.accuracy.run import Weak
from benchmarks.tasks.task import BenchmarkProblem
from gsr_engine import Engine
from gsr_engine.checkpoint.digest import tokenizer_digest, weights_digest
from gsr_engine.checkpoint.files import find_adapter, find_checkpoint
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.demo.report import NANO
from gsr_engine.errors import InvalidRequest
from train.generation.chat_client import ChatClient
from train.options import check_least

_OF_SERVER = ("concurrency", "request_timeout")
_OF_ENGINE = ("dtype", "quantization", "max_model_len", "summary_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions(AccuracyConfig):
    """The settings of a run, which models it has, and how they are opened.

    Attributes:
        model: Checkpoint folder or hub id; with --endpoint, the server's name for it.
        adapter: LoRA adapter over it, as peft saves it: folder or hub id.
        endpoint: Ask this server instead of running the engine, e.g. http://host:8000/v1: anything
            that speaks OpenAI's chat completions.
        concurrency: Requests to the server at a time.
        request_timeout: Seconds for one try of a request.
        refiner: Another checkpoint, which reads the candidates and refines them.
        weak_model: Writes the weak candidates of --pools.
        reward_model: Checkpoint of transformers' sequence classification, which judges candidates.
        dtype: auto, float32 or bfloat16.
        quantization: auto, none, int8 or fp8.
        template: Other prompts: a built-in name, or a file in the format of gsr.json.
        max_model_len: Longest context in tokens; the checkpoint's if not given.
    """

    model: str = str(NANO)
    adapter: str | None = None
    endpoint: str | None = None
    concurrency: int = 64
    request_timeout: float = 1800.0
    refiner: str | None = None
    weak_model: str | None = None
    reward_model: str | None = None
    dtype: str = "auto"
    quantization: str = "auto"
    template: str | None = None
    max_model_len: int | None = None

    def __post_init__(self) -> None:
        """Raise InvalidRequest for values that cannot be."""
        AccuracyConfig.__post_init__(self)  # super() fails in a class with slots
        check_least(self, concurrency=1)
        if self.endpoint is None:
            refuse_set(self, "is for a server, and there is no --endpoint", *_OF_SERVER)
            return
        if self.refiner is None and self.weak_model is None:
            refuse_set(self, "is for the engine, and --endpoint asks a server", *_OF_ENGINE)
        if self.model == str(NANO):
            raise InvalidRequest("model", "names the model for --endpoint, as the server calls it")
        if self.adapter is not None:
            raise InvalidRequest("adapter", "is for the engine, and --endpoint asks a server")


def refuse_set(options: ModelOptions, reason: str, *names: str) -> None:
    """Raise InvalidRequest if one of these options differs from its default: it does nothing."""
    for one in fields(options):
        if one.name in names and getattr(options, one.name) != one.default:
            raise InvalidRequest(one.name, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What a run needs of its models.

    Attributes:
        generator: writes and refines.
        gsr: how the answers of whoever refines are found.
        about: names and digests, for the settings of the run.
        weak, reward_model: None without one.
    """

    generator: Generator
    gsr: GsrConfig
    about: dict[str, Any]
    weak: Weak | None = None
    reward_model: RewardModel | None = None


@contextmanager
def opened(options: ModelOptions, problems: Sequence[BenchmarkProblem]) -> Iterator[Models]:
    """The models, until the context ends.

    Raises:
        CheckpointError: one of them cannot be loaded.
        InvalidRequest: an option does not fit its model.
    """
    about: dict[str, Any] = {}
    with ExitStack() as stack:
        opener = _Opener(options, problems, stack)
        writer = opener.writer(about)
        generator, gsr, tokenizer = writer.generator, writer.gsr, writer.tokenizer
        if options.refiner is not None:
            generator, gsr = opener.refined(writer, about)
            tokenizer = about["refiner_tokenizer"]
        weak = None if options.weak_model is None else opener.weak(tokenizer, about)
        judge = None if options.reward_model is None else _judge(options.reward_model, about)
        yield Models(generator=generator, gsr=gsr, about=about, weak=weak, reward_model=judge)


class _Writer(NamedTuple):
    """Who writes the candidates: its prompts, its thinking's tags, and its tokenizer's digest."""

    generator: Generator
    gsr: GsrConfig
    thinking: tuple[str, str] | None
    tokenizer: str | None


class _Opener:
    def __init__(
        self, options: ModelOptions, problems: Sequence[BenchmarkProblem], stack: ExitStack
    ) -> None:
        self._options, self._problems, self._stack = options, problems, stack

    def writer(self, about: dict[str, Any]) -> _Writer:
        """Who writes the candidates."""
        options = self._options
        if options.endpoint is not None:
            about |= {"model": options.model, "endpoint": options.endpoint}
            # Nobody knows a server's weights: its name for them stands in their place.
            about |= {"weights": f"served as {options.model}", "tokenizer": None}
            return self._endpoint(options.endpoint)
        folder = find_checkpoint(options.model)
        adapter = None if options.adapter is None else find_adapter(options.adapter)
        about["model"] = options.model + (f" with {options.adapter}" if adapter else "")
        about["weights"] = weights_digest(folder, adapter)
        about["tokenizer"] = tokenizer = tokenizer_digest(folder)
        engine = self._engine(folder, adapter=adapter, template=options.template)
        return _Writer(self._generator(engine), engine.gsr, engine.tokenizer.thinking, tokenizer)

    def refined(self, writer: _Writer, about: dict[str, Any]) -> tuple[Generator, GsrConfig]:
        """The writer, with another model that refines, and the prompts of that one."""
        name = str(self._options.refiner)
        folder = find_checkpoint(name)
        about |= {"refiner": name, "refiner_weights": weights_digest(folder)}
        engine, refiner_tokenizer = self._engine(folder), tokenizer_digest(folder)
        about["refiner_tokenizer"] = refiner_tokenizer
        return RefinedBy(
            writer.generator,
            self._generator(engine, writes=False),
            thinking=writer.thinking,
            same_tokens=writer.tokenizer == refiner_tokenizer,
        ), engine.gsr

    def weak(self, tokenizer: str | None, about: dict[str, Any]) -> Weak:
        """Who writes the weak candidates."""
        name = str(self._options.weak_model)
        folder = find_checkpoint(name)
        about |= {"weak_model": name, "weak_weights": weights_digest(folder)}
        return Weak(self._generator(self._engine(folder)), tokenizer == tokenizer_digest(folder))

    def _generator(self, engine: Engine, *, writes: bool = True) -> EngineGenerator:
        return EngineGenerator(engine, self._problems, self._options, writes=writes)

    def _endpoint(self, url: str) -> _Writer:
        options, gsr = self._options, GsrConfig()
        if options.template is not None:
            gsr = gsr.with_prompts_of(options.template)
        client: ChatClient[tuple[int, Any]] = ChatClient(
            options.model,
            gsr,
            url,
            concurrency=options.concurrency,
            timeout=options.request_timeout,
        )
        self._stack.enter_context(client)
        generator = EndpointGenerator(client, gsr, self._problems, self._options)
        return _Writer(generator, gsr, client.thinking, None)

    def _engine(self, folder: Path, **others: Any) -> Engine:
        # No prefix cache: each method pays for its prompts, and no result depends on an earlier.
        engine = Engine.from_pretrained(
            folder,
            dtype=self._options.dtype,
            quantization=self._options.quantization,
            generation_config="none",
            max_model_len=self._options.max_model_len,
            prefix_cache=False,
            **others,
        )
        return self._stack.enter_context(engine)


def _judge(name: str, about: dict[str, Any]) -> RewardModel:
    folder = find_checkpoint(name)
    about |= {"reward_model": name, "reward_weights": weights_digest(folder)}
    return RewardModel(folder)
