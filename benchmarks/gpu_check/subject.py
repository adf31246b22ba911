"""The subject of part `engine`: a checkpoint, here and in transformers, and its prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.gpu_check.setting import Setting
from benchmarks.gpu_check.steps import random_prompts
from benchmarks.random_weights import engine_over, random_problems, write_checkpoint
from gsr_engine import Engine, EngineConfig, SamplingParams, SelfRefineParams
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.execution.device import build_runner, paged_runner
from gsr_engine.execution.runner import Runner
from gsr_engine.model.decoder import Decoder
from gsr_engine.model.weights import load_decoder
from gsr_engine.params import LAYOUTS, Layout
from gsr_engine.requests.request import Stream
from gsr_engine.schedule.admission import AnyRequest

# Number of most likely tokens that are compared.
_TOPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Tokens of greedy prompts, of prompts with siblings, of problems and of streams.

    Real prompts are longer than an item of the work list. There are enough siblings that reading
    their prompt together is faster.
    """

    greedy: tuple[int, ...] = (5, 33, 300, 700)
    forked: tuple[int, ...] = (600, 610, 620, 630)
    siblings: int = 8
    problem: int = 90
    k: int = 4
    stream: int = 32
    kv_gib: float = 2.0


_TINY = Sizes(greedy=(5, 33), forked=(20, 40), siblings=3, problem=9, k=2, stream=8, kv_gib=0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One checkpoint in one dtype.

    Attributes:
        name: of checkpoint and dtype.
        decoder: the engine's model.
        exact: transformers' model in fp32.
        rounded: transformers' model in the engine's dtype; None if that is fp32.
    """

    name: str
    setting: Setting
    sizes: Sizes
    decoder: Decoder
    exact: PreTrainedModel
    rounded: PreTrainedModel | None

    @classmethod
    def load(cls, shape: str, dtype: torch.dtype, setting: Setting) -> Subject:
        """Read the checkpoint of a shape, which is written if it is missing."""
        device = torch.device(setting.device)
        folder = write_checkpoint(shape, device=setting.device)

        def theirs(dtype: torch.dtype) -> PreTrainedModel:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, attn_implementation="eager"
            )
            return model.to(device).eval()

        return cls(
            name=f"{shape} {str(dtype).removeprefix('torch.')}",
            setting=setting,
            sizes=_TINY if setting.tiny else Sizes(),
            decoder=load_decoder(folder, ModelConfig.from_folder(folder), dtype, device),
            exact=theirs(torch.float32),
            rounded=None if dtype == torch.float32 else theirs(dtype),
        )

    def engine(self, runner: Runner | None = None, /, **options: Any) -> Engine:
        """A fresh engine; without a runner it makes one.

        `options` are fields of `EngineConfig`.
        """
        runner = runner or self.runner(**options)
        return engine_over(self.decoder, runner, device=self.setting.device, **options)

    def runner(self, **options: Any) -> Runner:
        """A runner for `engine`, with the same options; a CPU plays a GPU, with lag and graphs."""
        self.setting.free_memory()
        config = EngineConfig(device=self.setting.device, **options)
        if self.setting.on_gpu:
            return build_runner(self.decoder, config)
        return paged_runner(self.decoder, config, lag=1, use_graphs=config.cuda_graphs)

    def draw_together(self, engine: Engine) -> list[Stream]:
        """Streams of every kind, computed in the same steps; two of each group of siblings.

        Raises:
            RuntimeError: a request failed.
        """
        greedy = replace(self._greedy, top_logprobs=_TOPS)
        forked = replace(self._sampled, n=self.sizes.siblings, top_logprobs=_TOPS, seed=3)
        plain = [
            engine.new_generate(ids, params, index=index)
            for lengths, params in ((self.sizes.greedy, greedy), (self.sizes.forked, forked))
            for index, ids in enumerate(self.prompts(lengths))
        ]
        refined = [
            engine.new_self_refine(problem, self._refining(layout, _TOPS), index=index)
            for layout in LAYOUTS
            for index, problem in enumerate(self._problems)
        ]
        requests: list[AnyRequest] = [*plain, *refined]
        for request in requests:
            engine.submit(request)
        while engine.has_work:
            engine.step()
        for request in requests:
            if request.result is None or request.result.error:
                raise RuntimeError(f"a request failed: {request.result and request.result.error}")
        streams = [stream for request in plain for stream in request.streams[:2]]
        return streams + [s for request in refined for row in request.rounds for s in row]

    def draw_tokens(self, engine: Engine) -> list[list[int]]:
        """Sampled siblings, then selfRef@k in both layouts: the tokens of every stream."""
        forked = replace(self._sampled, n=self.sizes.siblings, seed=3)
        found = [
            one.token_ids
            for result in engine.generate(self.prompts(self.sizes.forked), forked)
            for one in result.completions
        ]
        for layout in LAYOUTS:
            for result in engine.self_refine(self._problems, self._refining(layout)):
                found += [c.token_ids for c in (*result.candidates, *result.rounds[0])]
        return found

    def prompts(self, lengths: Sequence[int]) -> list[list[int]]:
        """Random prompts of these lengths, always the same."""
        torch.manual_seed(lengths[0])
        vocab_size = self.decoder.config.vocab_size
        return [random_prompts(1, length, vocab_size)[0] for length in lengths]

    @property
    def _greedy(self) -> SamplingParams:
        return SamplingParams(temperature=0.0, max_tokens=self.sizes.stream, ignore_eos=True)

    @property
    def _sampled(self) -> SamplingParams:
        return replace(self._greedy, temperature=1.0)

    def _refining(self, layout: Layout, tops: int = 0) -> SelfRefineParams:
        return SelfRefineParams(
            k=self.sizes.k,
            layout=layout,
            candidate=replace(self._sampled, top_logprobs=tops),
            refine=replace(self._greedy, top_logprobs=tops),
            seed=5,
        )

    @property
    def _problems(self) -> list[str]:
        return random_problems(2, self.sizes.problem)
