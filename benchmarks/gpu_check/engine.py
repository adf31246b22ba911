"""Is the engine right: its tokens and log-probabilities against transformers, bf16 before fp32.

A checkpoint of 0.5B's shape with random weights. For each token that the engine drew, transformers
computes the logits at its place: in fp32 from the same weights, and also in bf16 if the engine
computes in bf16. Beside that, what an engine promises on a GPU: that it read spans together,
replayed graphs, and compiled nothing once it had started.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_check.company import agreement_in_company
from benchmarks.gpu_check.compilations import compilations
from benchmarks.gpu_check.record import Record, Row
from benchmarks.gpu_check.setting import Setting
from benchmarks.gpu_check.steps import graph_counts
from benchmarks.gpu_check.subject import Subject
from benchmarks.oracle import TIE, shortfalls, stream_logits
from gsr_engine import Engine, SamplingParams
from gsr_engine.requests.request import Stream

_AS_IT_COMES, _NEITHER = "as it comes", "neither"
_WAYS: dict[str, dict[str, Any]] = {
    _AS_IT_COMES: {},
    _NEITHER: {"cuda_graphs": False, "share_spans": False},
}
# Largest error of fp32 log-probabilities: transformers adds in another order.
_FP32_BOUND = 1e-3
# The engine's bf16 error may be this many times that of transformers' own bf16.
_BF16_BOUND = 3.0


def run(setting: Setting, record: Record) -> None:
    """Both dtypes of one shape."""
    shape = "tiny" if setting.tiny else "0.5b"
    for dtype in (torch.bfloat16, torch.float32):
        check = partial(_check, shape, dtype, setting, record)
        record.attempt("engine", f"{shape} {dtype}", check)


def _check(shape: str, dtype: torch.dtype, setting: Setting, record: Record) -> None:
    setting.free_memory()
    subject = Subject.load(shape, dtype, setting)
    for way in _WAYS:
        compare = partial(_compare, subject, way, record)
        record.attempt("against transformers", f"{subject.name}, {way}", compare)
    record.attempt("the same tokens", subject.name, partial(_draw_again, subject, record))
    record.attempt("default memory", subject.name, partial(_fill_memory, subject))


def _compare(subject: Subject, way: str, record: Record) -> Row:
    options = {"kv_cache_gib": subject.sizes.kv_gib, **_WAYS[way]}
    with subject.engine(**options) as engine, compilations() as compiled:
        streams = subject.draw_together(engine)
        engine.check()
        ran = what_ran(engine, compiled, way, subject.setting)
    record.add("what ran", f"{subject.name}, {way}", **ran)
    judged = [_judge(subject, stream) for stream in streams]
    # The first stream is greedy, so its figures have every name.
    found = {name: torch.cat([j[name] for j in judged if name in j]) for name in judged[0]}
    error, error_of_drawn, short = (
        found[name].max().item() for name in ("error", "error_of_drawn", "short")
    )
    row: Row = {"streams": len(streams), "error": error, "error_of_drawn": error_of_drawn}
    row |= {"short": short, "best": _best(found["short"])}
    if subject.rounded is None:
        row["passed"] = error <= _FP32_BOUND and error_of_drawn <= _FP32_BOUND and short < TIE
    else:
        their_error = found["their_error"].max().item()
        row |= {"their_error": their_error, "their_best": _best(found["their_short"])}
        row["passed"] = error <= _BF16_BOUND * their_error
    return row


def what_ran(engine: Engine, compiled: Sequence[str], way: str, setting: Setting) -> Row:
    """What an engine did since it started. A CPU replays no graphs."""
    shared, graphs = engine.stats()["shared_spans"], graph_counts(engine)
    row: Row = {"spans_shared": shared["spans_shared"] if shared else 0, **graphs}
    row |= {"compiled": len(compiled)}
    if compiled:
        row["first_compiled"] = compiled[0][:80]
    passed = not compiled
    if way == _AS_IT_COMES:
        passed &= row["spans_shared"] > 0
        if setting.on_gpu:
            passed &= graphs.get("replays", 0) > 0 and graphs["captures_failed"] == 0
    return row | {"passed": passed}


def _best(short: Tensor) -> float:
    return (short == 0).float().mean().item()


def _judge(subject: Subject, stream: Stream) -> dict[str, Tensor]:
    """By token: the error of log-probabilities, and for a greedy stream the distance to the best.

    If the engine does not compute in fp32, also the same of transformers in the engine's dtype.
    """
    exact, token_ids = stream_logits(subject.exact, stream.segment), stream.segment.token_ids
    logprobs, device = exact.log_softmax(-1), exact.device
    tops = torch.tensor(stream.top_logprobs, device=device)
    ids, ours = tops[..., 0].long(), tops[..., 1]
    expected = logprobs.gather(1, ids)
    of_drawn = logprobs.gather(1, torch.tensor(token_ids, device=device)[:, None]).squeeze(1)
    found = {
        "error": (ours - expected).abs().amax(1),
        "error_of_drawn": (torch.tensor(stream.logprobs, device=device) - of_drawn).abs(),
    }
    is_greedy = stream.params.temperature == 0
    if is_greedy:
        found["short"] = shortfalls(exact, token_ids)
    if subject.rounded is not None:
        theirs = stream_logits(subject.rounded, stream.segment)
        found["their_error"] = (theirs.log_softmax(-1).gather(1, ids) - expected).abs().amax(1)
        if is_greedy:
            found["their_short"] = shortfalls(exact, theirs.argmax(-1).tolist())
    return found


def _draw_again(subject: Subject, record: Record) -> None:
    """Runs that must draw the same tokens, and one without graphs, which may round differently."""

    def add(case: str, tokens: list[list[int]], must: bool) -> None:
        row: Row = {"agree": _agreement(first, tokens)}
        if must:
            row["passed"] = tokens == first
        record.add("the same tokens", f"{subject.name}, {case}", **row)

    # Without a prefix cache, so that the second run computes what the first computed.
    options = {"kv_cache_gib": subject.sizes.kv_gib, "prefix_cache": False}
    runner = subject.runner(**options)
    with subject.engine(runner, **options) as engine:
        first = subject.draw_tokens(engine)
        add("the seed again", subject.draw_tokens(engine), must=True)
        record.attempt("in company", subject.name, partial(_in_company, subject, engine))
        runner.lag = 0  # each step's tokens are known before the next is planned
        add("one step at a time", subject.draw_tokens(engine), must=True)
    with subject.engine(**options, cuda_graphs=False) as engine:
        add("without graphs", subject.draw_tokens(engine), must=False)


def _agreement(first: Sequence[list[int]], other: Sequence[list[int]]) -> float:
    """The share of equal tokens; after the first different token few are equal."""
    pairs = [pair for a, b in zip(first, other, strict=True) for pair in zip(a, b, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


def _in_company(subject: Subject, engine: Engine) -> Row:
    """How often a prompt draws the same tokens alone; on a GPU nothing promises that it does."""
    prompts = subject.prompts(subject.sizes.forked + subject.sizes.greedy)
    params = SamplingParams(max_tokens=subject.sizes.stream, ignore_eos=True, seed=3)
    return agreement_in_company(engine, prompts, params)


def _fill_memory(subject: Subject) -> Row:
    """An engine that sizes its own KV must be able to compute; how much memory it leaves free."""
    with subject.engine() as engine:
        params = SamplingParams(n=4, max_tokens=8, ignore_eos=True, seed=1)
        results = engine.generate([[7] * 100] * 4, params)
        row: Row = {"pages": engine.limits.num_pages}
        if subject.setting.on_gpu:
            row["gib_free"] = torch.cuda.mem_get_info()[0] / 2**30
        tokens = sum(len(one.token_ids) for result in results for one in result.completions)
    return row | {"passed": tokens == 4 * 4 * 8}
