"""selfRef@k by the engine itself over a decoder of real shape whose products nobody computes.

Planner, lists, graphs and sampler are the engine's. Every step with prefill is counted. Of steps
that only decode, the first two of a run of equal ones are, and then every `EVERY`-th: the first
also takes new streams. Those in between lie on the line between the two next to them, because
contexts grow by a token each. Those behind the last counted step of a run count like it: a context
is then up to `EVERY` tokens too short.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch

from benchmarks.kernels.roofline.counting import Counting
from benchmarks.kernels.roofline.operations import Operation
from benchmarks.random_weights import engine_over, random_problems
from gsr_engine import EngineConfig, SamplingParams, SelfRefineParams
from gsr_engine.attention.kv_cache import KVCache
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.demo.report import NANO
from gsr_engine.execution import device
from gsr_engine.execution.runner import Launched, StepRunner
from gsr_engine.execution.sampler import Draws
from gsr_engine.model import weights
from gsr_engine.model.decoder import Decoder, LayerAttention
from gsr_engine.model.linear import Linear
from gsr_engine.params import Layout
from gsr_engine.step.plan import StepPlan

EVERY = 128


@dataclass(slots=True)
class Step:
    """A counted step.

    Attributes:
        phase: of the prefill that it does most of; of its streams, if it only decodes.
        weight: how many steps it stands for.
        tokens: that it computes.
        drawn: tokens that it draws.
        mixed: whether it both decodes and prefills.
        operations: each with how often it is launched.
    """

    phase: str
    weight: float
    tokens: int
    drawn: int
    mixed: bool
    operations: Counter[Operation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """selfRef@k of some problems; tokens of a problem, a candidate, a refinement."""

    problems: int
    k: int
    problem: int
    candidate: int
    refine: int


@dataclass(frozen=True, kw_only=True)
class _CountedDecoder(Decoder):
    """A decoder that gives rows without values, and at once, while nothing is counted."""

    counting: Counting

    @torch.inference_mode()
    def hidden(
        self, token_ids: torch.Tensor, attention: LayerAttention, rows: torch.Tensor | None
    ) -> torch.Tensor:
        """See `Decoder.hidden`."""
        if self.counting.on:
            return super().hidden(token_ids, attention, rows)
        count = len(token_ids if rows is None else rows)
        return torch.empty((count, self.config.hidden_size), dtype=self.dtype)


class _Drawn(NamedTuple):
    """The draws of a step that nobody computed: the same token for all streams."""

    launched: Launched
    token: int

    def wait(self) -> Draws:
        """See `Launched.wait`."""
        count = len(self.launched.wait().token_ids)
        return Draws([self.token] * count, [-1.0] * count)


class _SampledRunner:
    """A `StepRunner` that counts some steps of another; all streams draw `token`."""

    def __init__(self, runner: StepRunner, counting: Counting, token: int) -> None:
        self._runner, self._counting, self._token = runner, counting, token
        self.num_pages, self.lag = runner.num_pages, runner.lag
        self.sharing, self.costs = runner.sharing, runner.costs
        self.use, self.reset = runner.use, runner.reset
        self.steps: list[Step] = []
        self.graph_counts = runner.graph_counts
        self._run = 0  # alike steps so far, the present one among them

    def launch(self, plan: StepPlan) -> Launched:
        """See `StepRunner.launch`."""
        step = _step_of(plan)
        last = self.steps[-1] if self.steps else None
        self._run = self._run + 1 if last is not None and _alike(step, last) else 1
        if last is not None and self._run > 2:
            if (self._run - 2) % EVERY:
                last.weight += 1
                return _Drawn(self._runner.launch(plan), self._token)
            # Half of the steps that the last one stood for are nearer to this one.
            half = (EVERY - 1) / 2
            last.weight -= half
            step.weight += half
        with self._counting.step(plan.num_tokens) as operations:
            launched = self._runner.launch(plan)
        step.operations = operations
        self.steps.append(step)
        return _Drawn(launched, self._token)


def _alike(step: Step, other: Step) -> bool:
    """Whether both only decode, and as many streams of one phase."""
    same = (step.phase, step.tokens, step.mixed) == (other.phase, other.tokens, other.mixed)
    return same and step.phase.endswith("decode")


def _step_of(plan: StepPlan) -> Step:
    tokens: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for group, decodes, count in plan.shares:
        tokens[decodes][group.phases[decodes]] += count
    phases = tokens[False] or tokens[True]
    mixed = bool(tokens[False] and tokens[True])
    return Step(
        phases.most_common(1)[0][0], 1.0, plan.num_tokens, len(plan.draws), mixed, Counter()
    )


def empty_decoder(config: ModelConfig, counting: Counting) -> Decoder:
    """A decoder of a shape in bf16 for `counting`, laid out as on a GPU; no weight has a value."""
    with counting, patch.object(weights, "linear_maker", lambda *_: Linear):
        plain = weights.dummy_decoder(config, torch.bfloat16)
    parts = {one.name: getattr(plain, one.name) for one in fields(plain)}
    return _CountedDecoder(**parts, counting=counting)


def simulate(
    config: ModelConfig, sizes: Sizes, layout: Layout, kv_gib: float, *, shares: bool = True
) -> list[Step]:
    """The counted steps of selfRef@k of all problems at once.

    Args:
        config: shape of the model.
        sizes: the work.
        layout: of the refinements.
        kv_gib: memory for KV pages.
        shares: whether streams read common spans together.
    """
    counting = Counting()
    options: dict[str, Any] = {"kv_cache_gib": kv_gib, "share_spans": shares, "device": "cpu"}
    decoder = empty_decoder(config, counting)
    with counting.engines(), _one_layer_of_pages():
        runner = device.paged_runner(decoder, EngineConfig(**options), lag=1, use_graphs=True)
        (digit,) = Tokenizer.from_folder(NANO).encode_text("1")
        sampled = _SampledRunner(runner, counting, digit)
        with engine_over(decoder, sampled, **options) as engine:
            problems = random_problems(sizes.problems, sizes.problem)
            results = engine.self_refine(problems, _params(sizes, layout))
    if errors := [result.error for result in results if result.error]:
        raise RuntimeError(f"a request of the simulation failed: {errors[0]}")
    return sampled.steps


def _params(sizes: Sizes, layout: Layout) -> SelfRefineParams:
    """Streams of exactly these lengths, drawn without truncation; whole candidates are shown."""
    return SelfRefineParams(
        k=sizes.k,
        layout=layout,
        candidate=_stream(1.0, sizes.candidate),
        refine=_stream(0.0, sizes.refine),
        summary_tokens=max(1000, sizes.candidate),
    )


def _stream(temperature: float, tokens: int) -> SamplingParams:
    return SamplingParams(temperature=temperature, max_tokens=tokens, ignore_eos=True)


@contextmanager
def _one_layer_of_pages() -> Iterator[None]:
    """Inside, the pages of all layers lie in the same memory: a GPU's would not fit on a host."""

    class OneLayer(KVCache):
        def __init__(self, model: ModelConfig, *where: Any) -> None:
            super().__init__(replace(model, layers=model.layers[:1]), *where)
            self.keys = self.keys.expand(model.num_layers, *self.keys.shape[1:])
            self.values = self.values.expand(model.num_layers, *self.values.shape[1:])

    with patch.object(device, "KVCache", OneLayer):
        yield
