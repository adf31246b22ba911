"""The engine: takes requests, computes them step by step, and returns results."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import torch

from gsr_engine.attention.kv_cache import page_bytes
from gsr_engine.checkpoint.chat_template import Message, Variables
from gsr_engine.checkpoint.files import find_adapter, find_checkpoint
from gsr_engine.checkpoint.generation_config import Choice, GenerationConfig
from gsr_engine.checkpoint.given_tensors import NamedTensors, given_tensors
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tensors import ModelTensors
from gsr_engine.checkpoint.tokenizer import SpecialTokens, Tokenizer
from gsr_engine.config import EngineConfig, Quantization
from gsr_engine.errors import CheckpointError, EngineClosed, InvalidRequest, shown
from gsr_engine.execution.books import Books
from gsr_engine.execution.device import build_runner
from gsr_engine.execution.footprint import Footprint
from gsr_engine.execution.gpu import drop_caches, on_device
from gsr_engine.execution.loading import load_parts, open_weights
from gsr_engine.execution.memory_need import check_memory_for_reload
from gsr_engine.execution.runner import StepRunner
from gsr_engine.execution.threads import Threads
from gsr_engine.model.decoder import Decoder
from gsr_engine.model.weights import renewal
from gsr_engine.outputs import GenerateResult, RefineResult
from gsr_engine.params import SamplingParams, SelfRefineParams
from gsr_engine.requests.advice import advise
from gsr_engine.requests.inputs import one_each
from gsr_engine.requests.limits import Limits
from gsr_engine.requests.maker import RequestMaker
from gsr_engine.requests.request import Request, RequestState
from gsr_engine.requests.two_engines import RefineElsewhere
from gsr_engine.schedule.admission import AnyRequest
from gsr_engine.schedule.memory import Memory
from gsr_engine.schedule.scheduler import Scheduler
from gsr_engine.text.problem_prompts import Problem

ResultT = TypeVar("ResultT")
_log = logging.getLogger(__name__)


class Engine(RequestMaker):
    """Generates and refines with one checkpoint, in the caller's process and thread.

    Use it as a context manager, or `close` it, to free its memory. Closing it again does nothing.

    One thread at a time uses it. While a call of one thread runs, `submit`, `step`, `abort`, `run`
    and all that is built on them, `reload_weights` and `close` raise EngineBusy in other threads,
    and what runs is not affected. The methods of `RequestMaker` work in any thread. The thread
    itself may call again from a callback, but not from a signal handler.

    A fork of its process gets EngineForked from these calls; `close` does nothing there. A fork may
    make an engine of its own. But if the thread that forked had computed with an engine, it gets
    EngineForked from that one, too, unless it has `threads=1`: use a new thread, or spawn. If other
    code had computed with torch in that thread, nothing tells, and torch waits forever.

    An interrupt (Ctrl-C) at any point leaves an engine that works. If it cuts a step or a
    submission in two, every unfinished request fails with it as the cause, and no KV is kept. An
    error that a step raises does the same.

    Attributes:
        clock: the time of timeouts, in seconds.
        footprint: what the model takes of the memory, and how much runs in it at once. It is also
            logged (INFO) when the engine is made.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        gsr: GsrConfig | None = None,
        config: EngineConfig | None = None,
        *,
        generation: GenerationConfig | None = None,
        runner: StepRunner | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put an engine together.

        Args:
            decoder: the model, on the device that it runs on.
            tokenizer: the tokenizer of its checkpoint.
            gsr: the checkpoint's `gsr.json`; None if it was not trained to refine.
            config: how the engine runs.
            generation: what None in `SamplingParams` stands for; None is the engine's own values.
            runner: computes the steps; None builds the runner for the decoder's device.
            clock: returns seconds, for timeouts and queueing times; any thread may call it.
        """
        config = config or EngineConfig()
        length = config.model_length(decoder.config)
        self._threads = Threads(config.threads)
        with self._threads.held(), on_device(decoder.device):
            runner = runner or build_runner(decoder, config)
        limits = Limits(
            length,
            decoder.config.vocab_size,
            runner.num_pages,
            config.max_num_seqs,
            page_bytes(decoder.config, decoder.dtype),
        )
        gsr, generation = gsr or GsrConfig(trained=False), generation or GenerationConfig()
        super().__init__(tokenizer, gsr, limits, generation)
        self.clock = clock
        self._books = Books(config, runner, clock)
        self._model, self._dtype = decoder.config, decoder.dtype
        self._device, self._quantization = decoder.device, decoder.quantization
        self.footprint = Footprint.of(decoder, limits)
        _log.info("%s", self.footprint)

    @property
    def dtype(self) -> str:
        """In which it computes, e.g. "bfloat16"."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def quantization(self) -> Quantization:
        """What layers and head multiply in: "none" (the dtype), "int8" or "fp8"."""
        return self._quantization

    @property
    def threads(self) -> int:
        """How many threads its steps run with: `EngineConfig.threads`, or what None stood for."""
        return self._threads.count

    @property
    def scheduler(self) -> Scheduler:
        """For instruments and tests; requests go through `submit` and `step`."""
        return self._books.scheduler

    @property
    def memory(self) -> Memory:
        """For instruments and tests: the pages and the prefix cache."""
        return self._books.memory

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        revision: str | None = None,
        template: str | Path | None = None,
        adapter: str | Path | None = None,
        generation_config: Choice | None = None,
        **options: Any,
    ) -> Self:
        """Load a checkpoint from a local folder, a GGUF file or the Hugging Face hub.

        Args:
            path_or_id: folder with config.json, tokenizer and safetensors, or a GGUF file, or
                a hub id.
            revision: branch, tag or commit on the hub.
            template: other prompts than the checkpoint's: see `GsrConfig.with_prompts_of`.
            adapter: a LoRA adapter as peft saves it, a folder or a hub id. It is merged into the
                weights as they are read: W + scale B A in fp32, rounded once. Its gsr.json counts
                if it has one; tokenizer and chat template stay the checkpoint's.
            generation_config: "auto" takes what the checkpoint's generation_config.json states
                where a field of `SamplingParams` is None, "none" the engine's own values. None is
                "auto", but "none" for a checkpoint with gsr.json.
            options: fields of `EngineConfig`, e.g. `dtype="float32"`.

        Raises:
            CheckpointError: something is missing or broken; UnsupportedModel (a kind of it): the
                engine does not run such a model.
            InvalidRequest: an option is out of range.
            OutOfMemory: the device does not hold the weights and a KV pool. It is compared
                with what is free before a weight is read, and the message says what would do.
            EngineForked: this thread cannot compute, because its process was forked.
        """
        try:
            config = EngineConfig(**options)
        except TypeError as error:
            raise InvalidRequest("options", str(error)) from None
        with Threads(config.threads).held():
            folder = find_checkpoint(path_or_id, revision)
            over = None if adapter is None else find_adapter(adapter)
            generation = GenerationConfig.of_checkpoint(folder, generation_config, over)
            parts = load_parts(folder, config, template=template, adapter=over)
            for note in generation.notes:
                advise(note)
            return cls(*parts, config, generation=generation)

    def submit(self, request: AnyRequest) -> None:
        """Queue a request made by `new_generate` or `new_self_refine`; `step` moves it on.

        Raises:
            InvalidRequest: it was submitted before.
            EngineBusy: another thread uses the engine.
            EngineClosed: it is closed.
        """
        self._books.submit(request)

    def step(self) -> list[AnyRequest]:
        """Compute one step; returns the requests that finished, an empty list when idle.

        Raises:
            EngineBusy: another thread uses the engine.
            EngineClosed: it is closed, or ended by itself: see `ended`.
        """
        with self._threads.held(), on_device(self._device):
            return self._books.step()

    def abort(self, request: AnyRequest) -> None:
        """End a request at once, in any state; its result holds the tokens so far.

        Its pages are free when this returns; `step` still reports it. A request that is finished,
        or was never submitted to this engine, is left as it is.

        Raises:
            EngineBusy: another thread uses the engine.
        """
        self._books.abort(request)

    def owned(self) -> AbstractContextManager[None]:
        """A context in which only the present thread may use the engine, or EngineBusy."""
        return self._books.ownership.held()

    def reload_weights(
        self,
        path_or_id: str | Path,
        *,
        revision: str | None = None,
        adapter: str | Path | None = None,
    ) -> None:
        """Switch to other weights of the same model, e.g. a later checkpoint of its training.

        Running requests keep the tokens that they drew; all KV is recomputed. Tokenizer, prompts
        and `gsr.json` stay those of the first checkpoint. `adapter` is merged into the new weights,
        as in `from_pretrained`; without it they are plain.

        On a CPU the new weights are whole before they take the place of the old. On a GPU they are
        written over the old, layer by layer, once the names, shapes and dtypes of all are checked.

        Raises:
            CheckpointError: the checkpoint is broken or has another shape; the old weights stay.
            OutOfMemory: the host does not hold what is read at once; the old weights stay.
            EngineClosed: it is closed. Or a file became unreadable while a GPU's weights were
                overwritten: they are mixed, so the engine has ended.
        """
        folder = find_checkpoint(path_or_id, revision)
        over = None if adapter is None else find_adapter(adapter)
        with open_weights(folder, ModelConfig.from_folder(folder), over) as stored:
            if replace(stored.config, dtype=self._model.dtype) != self._model:
                raise CheckpointError(f"{folder} holds another model than the one that is loaded")
            stored.check()
            self._renew(stored)

    def load_weights(self, weights: NamedTensors) -> None:
        """Switch to weights that are in memory, e.g. those of the model that is being trained.

        `weights` are pairs of a name and a tensor, such as `model.named_parameters()` of
        transformers, in any order and on any device; names count that count in a checkpoint. An
        iterator is read to its end first, because everything is checked before anything is
        written. The engine keeps no reference to these tensors.

        Raises:
            InvalidRequest: something is no pair of a name and a tensor; the old weights stay.
            CheckpointError: a name is unknown or comes twice, or a tensor is missing or has another
                shape; UnsupportedModel (a kind of it): it holds no floats. The old weights stay.
            OutOfMemory, EngineClosed: as in `reload_weights`.
        """
        self._renew(given_tensors(weights, self._model))

    def _renew(self, stored: ModelTensors) -> None:
        kind = self._dtype, self._device, self._quantization
        check_memory_for_reload(stored.config, *kind)
        with self._threads.held(), on_device(self._device):
            self._books.use(renewal(stored, *kind), in_place=self._device.type != "cpu")

    @property
    def ended(self) -> EngineClosed | None:
        """Why the engine takes no more requests although nobody closed it; None while it does.

        Its cause is an error that breaks the GPU for the whole process, e.g. an illegal address, or
        one that left its weights mixed. Every unfinished request has failed with it.
        """
        return self._books.ended

    @property
    def has_work(self) -> bool:
        """Whether a submitted request is unfinished, or not reported by `step` yet."""
        return self._books.has_work

    def run(
        self,
        requests: Sequence[Request[ResultT]],
        on_finished: Callable[[int], object] = lambda _: None,
    ) -> list[ResultT]:
        """Submit requests and step until they are finished; their results, in order.

        `on_finished` is called after each step with the number of requests that it finished. It may
        use the engine, and even run other requests: their steps move these on, too.

        Raises:
            InvalidRequest: one of them was submitted before; then none is run.
            EngineBusy: another thread uses the engine.
        """
        new = [request for request in requests if request.state is RequestState.NEW]
        with self.owned():
            try:
                for request in requests:
                    self.submit(request)
                for request in requests:
                    while not request.finished:
                        on_finished(len(self.step()))
            except BaseException:  # interrupted: no caller is left to take the results
                for request in new:
                    self.abort(request)
                raise
        return [request.result for request in requests if request.result is not None]

    def generate(
        self,
        prompts: Sequence[str | list[int]] | str | list[int],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        special_tokens: SpecialTokens = "parse",
    ) -> list[GenerateResult]:
        """Complete prompts (text as it is, or token ids): one result each, in order.

        A single prompt stands for a list of it; the result is a list all the same.

        Special tokens that a text spells are parsed, so a conversation that was rendered elsewhere
        is what it says. Text that is not your own should not be: with `special_tokens="text"` they
        stay text.

        Raises:
            InvalidRequest: a prompt or its parameters are invalid; then no prompt was run.
        """
        every = one_each("prompts", prompts, params, SamplingParams)
        return self.run(
            [
                self.new_generate(prompt, mine, index=i, special_tokens=special_tokens)
                for i, (prompt, mine) in enumerate(every)
            ]
        )

    def chat(
        self,
        conversations: Sequence[Sequence[Message]] | Sequence[Message],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        chat_template_kwargs: Variables | None = None,
    ) -> list[GenerateResult]:
        """Answer conversations (lists of {"role", "content"}) through the chat template.

        A single conversation stands for a list of it; the result is a list all the same.
        `chat_template_kwargs` are variables of the template, e.g. `{"enable_thinking": False}`.

        Raises:
            InvalidRequest: a conversation or its parameters are invalid; then none was answered.
        """
        every = one_each("conversations", conversations, params, SamplingParams)
        prompts = [self.chat_prompt(messages, chat_template_kwargs) for messages, _ in every]
        return self.generate(prompts, [mine for _, mine in every])

    def self_refine(
        self,
        problems: Sequence[Problem] | Problem,
        params: SelfRefineParams | Sequence[SelfRefineParams] | None = None,
        candidates: Sequence[Sequence[str | list[int]]] | Sequence[str] | None = None,
        refiner: Engine | None = None,
    ) -> list[RefineResult]:
        """selfRef@k of every problem: one result each, in order.

        A problem is its text, or messages of which the last is the user's and states it.

        A single problem stands for a list of it (and a list of texts for its `candidates`); the
        result is a list all the same. `candidates`, for each problem a list of texts or token ids,
        are refined instead of generated ones. A `refiner` is an engine that refines the candidates
        of this engine.

        Raises:
            InvalidRequest: a problem or its parameters are invalid; then no problem was run.
        """
        every = one_each("problems", problems, params, SelfRefineParams)
        if refiner is not None:
            if not isinstance(refiner, Engine):
                raise InvalidRequest("refiner", f"must be an Engine, got {shown(refiner)}")
            if candidates is not None:
                raise InvalidRequest("refiner", "contradicts candidates: ask the refiner itself")
            with self.owned(), refiner.owned():
                return RefineElsewhere(self, refiner, every).run()
        given: Sequence[Any] = [None] * len(every) if candidates is None else candidates
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise InvalidRequest("candidates", f"must be a list per problem, got {shown(given)}")
        if isinstance(problems, str) and given and all(isinstance(one, str) for one in given):
            given = [given]
        if len(given) != len(every):
            raise InvalidRequest("candidates", f"{len(given)} for {len(every)} problems")
        return self.run(
            [
                self.new_self_refine(text, mine, candidates=own, index=i)
                for i, ((text, mine), own) in enumerate(zip(every, given, strict=True))
            ]
        )

    def check(self) -> None:
        """Prove that no KV page is lost, belongs to two segments, or is used after it was freed.

        Raises:
            PoolCorrupted: a page is; this is a bug of the engine.
        """
        self._books.check()

    def stats(self) -> dict[str, Any]:
        """Dtype and quantisation, counters since the start, current pages, requests and streams.

        `requests_running` have pages, `requests_waiting` have none: they were not admitted yet, or
        were preempted. `streams_running` generate. `streams_waiting` are the paused streams of
        running requests, and all of waiting requests: k of a refinement request that has k
        candidates, even if it had come to its refinement when it was preempted.
        """
        return {
            "dtype": self.dtype,
            "quantization": self.quantization,
            **self._books.as_dict(),
        }

    def close(self) -> None:
        """Drop the model and the KV pages; the engine takes no more requests.

        Calling it again does nothing. Then `submit`, `step` and all that is built on them raise
        EngineClosed; requests that are unfinished stay so, unless they are aborted.

        Raises:
            EngineBusy: another thread uses the engine.
        """
        self._books.close()
        with suppress(torch.AcceleratorError), on_device(self._device):  # it may be broken
            drop_caches()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
