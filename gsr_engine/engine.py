"""The engine: takes requests, owns the loop, gives results."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import torch

from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tokenizer import Message, Tokenizer
from gsr_engine.config import EngineConfig
from gsr_engine.errors import CheckpointError, EngineClosed, InvalidRequest
from gsr_engine.execution.device import build_runner, check_weights_fit, choose_device
from gsr_engine.execution.metrics import Metrics
from gsr_engine.execution.pipeline import Pipeline
from gsr_engine.kv.page_pool import PagePool
from gsr_engine.kv.prefix_cache import PrefixCache
from gsr_engine.model.decoder import Decoder
from gsr_engine.model.linear import compute_dtype
from gsr_engine.model.weights import load_decoder, weight_bytes
from gsr_engine.outputs import Completion, GenerateResult, RefineResult
from gsr_engine.params import SamplingParams, SelfRefineParams, one_each
from gsr_engine.requests.generate import GenerateRequest
from gsr_engine.requests.limits import Limits
from gsr_engine.requests.request import Request
from gsr_engine.requests.self_refine import SelfRefineRequest, warn_beyond_evidence
from gsr_engine.requests.two_engines import RefineElsewhere
from gsr_engine.schedule.admission import AnyRequest
from gsr_engine.schedule.memory import Memory
from gsr_engine.schedule.scheduler import Scheduler
from gsr_engine.seeds import derive_seed
from gsr_engine.text.prompts import Checkpoint, Prompts

ResultT = TypeVar("ResultT")


class Engine:
    """Generates and refines with one checkpoint, in this process and without threads of its own.

    Use it as a context manager, or `close` it, to give its memory back.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        gsr: GsrConfig | None = None,
        config: EngineConfig | None = None,
    ) -> None:
        config = config or EngineConfig()
        model = decoder.config
        length = config.model_length(model)
        runner, pages = build_runner(decoder, config)
        self.gsr = gsr or GsrConfig(trained=False)
        self.tokenizer = tokenizer
        self.limits = Limits(length, model.vocab_size, pages, config.max_num_seqs)
        self._pool = PagePool(pages)
        cache = PrefixCache(self._pool) if config.prefix_cache else None
        self._memory = Memory(self._pool, cache)
        self._scheduler = Scheduler(config, self._memory)
        self._metrics = Metrics()
        self._steps: Pipeline | None = Pipeline(self._scheduler, self._metrics, runner)
        self.prompts = Prompts(tokenizer, self.gsr)
        self._checkpoint = Checkpoint(tokenizer, self.prompts, self.gsr)

    @classmethod
    def from_pretrained(
        cls, path_or_id: str | Path, *, revision: str | None = None, **options: Any
    ) -> Self:
        """Load a checkpoint from a local folder or the Hugging Face hub.

        Args:
            path_or_id: folder with config.json, tokenizer and safetensors, or a hub id.
            revision: branch, tag or commit on the hub.
            options: fields of `EngineConfig`, e.g. `dtype="float32"`.

        Raises:
            CheckpointError: something is missing or broken; UnsupportedModel (a kind of it): the
                engine does not run such a model.
            InvalidRequest: an option is out of range.
            OutOfMemory: the device does not hold the model and a single KV page.
        """
        try:
            config = EngineConfig(**options)
        except TypeError as error:
            raise InvalidRequest("options", str(error)) from None
        folder = find_checkpoint(path_or_id, revision)
        model = ModelConfig.from_folder(folder)
        config.model_length(model)
        tokenizer = Tokenizer.from_folder(folder)
        gsr = GsrConfig.from_folder(folder)
        device = choose_device(config.device)
        auto = config.dtype == "auto"
        dtype = getattr(torch, model.dtype if auto else config.dtype)
        if device.type == "cuda":
            check_weights_fit(weight_bytes(model, dtype), config)
        elif auto:
            dtype = compute_dtype(dtype)
        return cls(load_decoder(folder, model, dtype, device), tokenizer, gsr, config)

    def submit(self, request: AnyRequest) -> None:
        """Queue a request made by `new_generate` or `new_self_refine`; `step` moves it on."""
        self._running_steps()
        self._scheduler.add(request)

    def new_generate(
        self, prompt: str | list[int], params: SamplingParams, *, index: int = 0, first: int = 0
    ) -> GenerateRequest:
        """A request for one prompt: text as it is (no template), or token ids.

        `index` is the prompt's place in the caller's list: with a seed given, prompts at
        different places still draw different streams. With `first` given, the n streams are those
        that a request for more of them would draw from that one on.

        Raises:
            InvalidRequest: it cannot be served.
        """
        if isinstance(prompt, str):
            prompt = self.tokenizer.encode_prompt(prompt)
        elif not isinstance(prompt, list):
            raise InvalidRequest("prompt", f"must be text or token ids, got {prompt!r}")
        seed = _seed(params.seed, index)
        return GenerateRequest(list(prompt), params, seed, self.tokenizer, self.limits, first)

    def new_self_refine(
        self,
        problem: str,
        params: SelfRefineParams,
        *,
        candidates: Sequence[str | list[int]] | None = None,
        index: int = 0,
    ) -> SelfRefineRequest:
        """A request for selfRef@k of one problem; `index` as in `new_generate`.

        With `candidates` (text or token ids) only the refinement is generated; there are as many
        as they are, whatever `params.k` says.

        Raises:
            InvalidRequest: it cannot be served.
        """
        if not isinstance(problem, str):
            raise InvalidRequest("problem", f"must be text, got {type(problem).__name__}")
        given = None
        if isinstance(candidates, str):
            raise InvalidRequest("candidates", "must be a list for each problem, got one text")
        if candidates is not None:
            given = [self._candidate_ids(candidate) for candidate in candidates]
            if not given:
                raise InvalidRequest("candidates", "is empty")
            params = replace(params, k=len(given))
        warn_beyond_evidence(params, self.gsr)
        seed = _seed(params.seed, index)
        return SelfRefineRequest(problem, params, seed, self._checkpoint, self.limits, given)

    def _candidate_ids(self, candidate: str | list[int]) -> list[int]:
        if isinstance(candidate, str):
            candidate = self.tokenizer.encode_text(candidate)
        elif not isinstance(candidate, list):
            raise InvalidRequest("candidates", f"must be text or token ids, got {candidate!r}")
        self.limits.check_tokens("candidates", candidate)
        return list(candidate)

    def step(self) -> list[AnyRequest]:
        """Compute one step; returns the requests that it finished, nothing when idle."""
        steps = self._running_steps()
        steps.step()
        finished, self._scheduler.finished = self._scheduler.finished, []
        for request in finished:
            self._metrics.record_finished(request.usage)
        if not self.has_work:
            steps.runner.reset()
        return finished

    def _running_steps(self) -> Pipeline:
        if self._steps is None:
            raise EngineClosed("the engine is closed")
        return self._steps

    def abort(self, request: AnyRequest) -> None:
        """End a request at once, wherever it stands; its result holds what is there so far.

        Its pages are free when this returns; `step` still reports it. A request that is finished,
        or was never submitted, is left alone.
        """
        self._scheduler.end(request)

    def reload_weights(self, path_or_id: str | Path, *, revision: str | None = None) -> None:
        """Go on with other weights of the same model, e.g. a later checkpoint of its training.

        Running requests keep the tokens that they drew; all KV is computed again. Tokenizer,
        prompts and `gsr.json` stay those of the first checkpoint.

        Raises:
            CheckpointError: the checkpoint is broken, or of another shape; the old weights stay.
        """
        steps = self._running_steps()
        old = steps.runner.decoder
        folder = find_checkpoint(path_or_id, revision)
        model = ModelConfig.from_folder(folder)
        if replace(model, dtype=old.config.dtype) != old.config:
            raise CheckpointError(f"{folder} holds another model than the one that is loaded")
        decoder = load_decoder(folder, model, old.dtype)
        steps.drain()
        self._scheduler.forget_kv()
        steps.runner.use(decoder)

    @property
    def has_work(self) -> bool:
        """Whether a submitted request is not finished, or not reported by `step` yet."""
        scheduler, launched = self._scheduler, self._steps is not None and self._steps.busy
        unfinished = scheduler.num_waiting or scheduler.num_running
        return bool(unfinished or scheduler.finished or launched)

    def _run(self, requests: Sequence[Request[ResultT]]) -> list[ResultT]:
        for request in requests:
            self.submit(request)
        waiting = {id(request) for request in requests}
        try:
            while waiting:
                waiting.difference_update(map(id, self.step()))
        except BaseException:  # interrupted: nobody is left to take the results
            for request in requests:
                self.abort(request)
            raise
        return [request.result for request in requests if request.result is not None]

    def generate(
        self,
        prompts: Sequence[str | list[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[GenerateResult]:
        """Complete prompts (text as it is, or token ids): one result each, in order.

        Raises:
            InvalidRequest: a prompt or its parameters; none of the prompts was run then.
        """
        every = one_each("prompts", prompts, params, SamplingParams)
        return self._run(
            [self.new_generate(prompt, mine, index=i) for i, (prompt, mine) in enumerate(every)]
        )

    def chat(
        self,
        conversations: Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[GenerateResult]:
        """Answer conversations (lists of {"role", "content"}) through the chat template."""
        return self.generate([self.tokenizer.chat(messages) for messages in conversations], params)

    def self_refine(
        self,
        problems: Sequence[str],
        params: SelfRefineParams | Sequence[SelfRefineParams] | None = None,
        candidates: Sequence[Sequence[str | list[int]]] | None = None,
        refiner: Engine | None = None,
    ) -> list[RefineResult]:
        """selfRef@k of every problem: one result each, in order.

        With `candidates`, a list of texts or token ids for each problem, these are refined and
        none is generated. With a `refiner`, that engine refines what this one writes.

        Raises:
            InvalidRequest: a problem or its parameters; none of the problems was run then.
        """
        every = one_each("problems", problems, params, SelfRefineParams)
        if refiner is not None:
            if candidates is not None:
                raise InvalidRequest("refiner", "contradicts candidates: ask the refiner itself")
            return RefineElsewhere(self, refiner, every).run()
        given = candidates if candidates is not None else [None] * len(problems)
        if len(given) != len(problems):
            raise InvalidRequest("candidates", f"{len(given)} for {len(problems)} problems")
        return self._run(
            [
                self.new_self_refine(text, mine, candidates=own, index=i)
                for i, ((text, mine), own) in enumerate(zip(every, given, strict=True))
            ]
        )

    def direct_prompt(self, problem: str) -> list[int]:
        """Token ids of the prompt that the candidates of a problem continue."""
        return self.prompts.direct(self.prompts.problem(problem)).token_ids

    def solution_text(self, completion: Completion) -> str:
        """The text of a solution without its thinking; empty where that has no end."""
        return self._checkpoint.text_and_answer(completion)[0]

    def find_answer(self, completion: Completion) -> str | None:
        """The final answer of a solution, as the checkpoint states it, thinking left out."""
        return self._checkpoint.text_and_answer(completion)[1]

    def check(self) -> None:
        """Prove that no KV page is lost, held twice over or used after it was freed.

        Raises:
            PoolCorrupted: one is; a bug of the engine.
        """
        self._scheduler.check()

    def stats(self) -> dict[str, Any]:
        """Counters since the start, and the pages and requests of this moment."""
        sharing = self._steps.runner.sharing if self._steps else None
        return {
            **self._metrics.as_dict(),
            "requests_waiting": self._scheduler.num_waiting,
            "requests_running": self._scheduler.num_running,
            "pages_total": self._pool.num_pages,
            "pages_used": self._pool.num_used,
            "pages_peak": self._pool.peak_used,
            "pages_cached": self._pool.num_idle,
            "preemptions": self._scheduler.num_preemptions,
            "prefix_cache": self._memory.cache.as_dict() if self._memory.cache else None,
            "shared_spans": sharing.as_dict() if sharing else None,
        }

    def close(self) -> None:
        """Drop the model and the KV pages; the engine takes no more requests."""
        self._steps = None
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _seed(seed: int | None, index: int) -> int:
    return secrets.randbits(63) if seed is None else derive_seed(seed, index)
