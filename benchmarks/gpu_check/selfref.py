"""How fast is selfRef@8 on a model of 7B's shape, in both layouts, beside a loop by hand.

Fixed lengths, as in `benchmarks.throughput`, and random weights. Each layout runs twice over
different problems: the second run shows what the first pays for being the first. The lengths are
shorter than those of the target, a candidate and a refinement of 1,024 tokens; they are doubled as
often as there is time. Over short candidates a prefill weighs more against decode steps, which
favours branched refinements; so a row names its lengths.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu_check.compilations import compilations
from benchmarks.gpu_check.hand_written import HandWritten
from benchmarks.gpu_check.record import Record, Row
from benchmarks.gpu_check.setting import Setting
from benchmarks.gpu_check.steps import graph_counts, random_prompts
from benchmarks.kernels.rows import add
from benchmarks.peers.job import Job, JobResult, do_job
from benchmarks.random_weights import engine_over, model_config, random_problems
from benchmarks.throughput.ours import RefineWork, end_to_end
from gsr_engine import Engine
from gsr_engine.model.decoder import Decoder
from gsr_engine.model.weights import dummy_decoder
from gsr_engine.params import LAYOUTS, Layout

_ASKED = 1.25
"""Branched against linear, in time."""
_LONGEST = 1024
_RUNS = ("first run", "second run")
# A longer run takes more than its tokens' share of time: contexts are longer, and it warms up.
_MARGIN = 1.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The work.

    Attributes:
        shape: of the model.
        k: candidates of a problem.
        problems: how many.
        problem, candidate, refine: tokens of each.
        kv_gib: memory for KV.
    """

    shape: str = "7b"
    k: int = 8
    problems: int = 32
    problem: int = 512
    candidate: int = 256
    refine: int = 256
    kv_gib: float = 40.0

    def __str__(self) -> str:
        return f"selfRef@{self.k}, {self.problem}/{self.candidate}/{self.refine}"

    def work(self, run: int) -> RefineWork:
        """The work over problems that no other run has."""
        return RefineWork(
            model=Path(self.shape),
            problems=random_problems(self.problems, self.problem, run),
            k=self.k,
            candidate_tokens=self.candidate,
            refine_tokens=self.refine,
            dtype="bfloat16",
            threads=torch.get_num_threads(),
            kv_gib=self.kv_gib,
        )


TINY = Sizes(shape="tiny", k=2, problems=2, problem=12, candidate=8, refine=6, kv_gib=0.05)
Results = dict[Layout, JobResult]


def run(setting: Setting, record: Record) -> None:
    """Both layouts, the loop by hand, then longer ones."""
    sizes = TINY if setting.tiny else Sizes()
    setting.free_memory()
    device = torch.device(setting.device)
    decoder = dummy_decoder(model_config(sizes.shape), torch.bfloat16, device=device)
    second = _layouts(sizes, decoder, setting, record)
    by_hand = partial(_hand_written, sizes, decoder, setting, second)
    record.attempt("by hand", str(sizes), by_hand)
    if not setting.tiny:
        longer(sizes, second, decoder, setting, record)


def _layouts(sizes: Sizes, decoder: Decoder, setting: Setting, record: Record) -> Results:
    """Both layouts twice; returns the results of the second run."""
    results: Results = {}
    options = {"kv_cache_gib": sizes.kv_gib}
    with engine_over(decoder, device=setting.device, **options) as engine:
        for number, name in enumerate(_RUNS):
            for layout in LAYOUTS:
                measure = partial(measure_layout, engine, sizes, layout, number, results)
                record.attempt("selfref", f"{sizes}, {layout}, {name}", measure)
    _compare(sizes, results, record)
    return results


def measure_layout(engine: Engine, sizes: Sizes, layout: Layout, run: int, results: Results) -> Row:
    """One run; `whole_s` holds its first steps, too, which `tokens_per_s` leaves out."""
    results.pop(layout, None)
    before, start = graph_counts(engine), time.perf_counter()
    with compilations() as compiled:
        result, _ = end_to_end(engine, sizes.work(run), layout, run)
    results[layout] = result
    whole = time.perf_counter() - start
    replays = graph_counts(engine).get("replays", 0) - before.get("replays", 0)
    row = figures(result) | {"whole_s": whole, "replays": replays, "compiled": len(compiled)}
    return row | {"passed": not compiled}


def _compare(sizes: Sizes, results: Results, record: Record) -> None:
    if len(results) == len(LAYOUTS):
        faster = results["linear"].seconds / results["branched"].seconds
        case = f"branched against linear, {sizes}, {sizes.problems} problems"
        record.target(case, asked=_ASKED, measured=faster)


def longer(
    sizes: Sizes, results: Results, decoder: Decoder, setting: Setting, record: Record
) -> None:
    """Candidates and refinements of twice as many tokens, as often as there is time."""
    while len(results) == len(LAYOUTS) and sizes.candidate < _LONGEST:
        needed = 2 * _MARGIN * sum(result.seconds for result in results.values())
        sizes = replace(sizes, candidate=2 * sizes.candidate, refine=2 * sizes.refine)
        if needed > record.seconds_left:
            record.add("selfref", str(sizes), skipped=f"no time left: it takes {needed:.0f} s")
            return
        setting.free_memory()
        results = {}
        with engine_over(decoder, device=setting.device, kv_cache_gib=sizes.kv_gib) as engine:
            for layout in LAYOUTS:
                measure = partial(measure_layout, engine, sizes, layout, 0, results)
                record.attempt("selfref", f"{sizes}, {layout}", measure)
        _compare(sizes, results, record)


def _hand_written(sizes: Sizes, decoder: Decoder, setting: Setting, engine: Results) -> Row:
    """The same work by hand, and how many times as fast the engine was."""
    row: Row = {}
    add(row, "by_hand_failed", partial(_by_hand, sizes, decoder, setting))
    if "tokens_per_s" in row:
        for layout, result in engine.items():
            row[f"engine_{layout}"] = result.tokens_per_second / row["tokens_per_s"]
    return row


def _by_hand(sizes: Sizes, decoder: Decoder, setting: Setting) -> Row:
    setting.free_memory()
    job, start = job_of(sizes), time.perf_counter()
    length = sizes.problem + sizes.candidate
    candidates = HandWritten(decoder, sizes.problems * sizes.k, length)
    refinements = HandWritten(decoder, sizes.problems, job.longest)
    captured = time.perf_counter() - start

    def generate(prompts: list[list[int]], n: int, tokens: int) -> int:
        loop = candidates if n > 1 else refinements
        return sum(map(len, loop.generate(prompts, n, tokens)))

    return figures(do_job(job, generate, {})) | {"captures_s": captured}


def job_of(sizes: Sizes) -> Job:
    """The same work as prompts of tokens; a linear prompt holds the problem and the candidates.

    The words of the template are left out.
    """
    vocab_size = model_config(sizes.shape).vocab_size
    linear = sizes.problem + sizes.k * sizes.candidate
    return Job(
        model=sizes.shape,
        dtype="bfloat16",
        threads=torch.get_num_threads(),
        k=sizes.k,
        prompts=random_prompts(sizes.problems, sizes.problem, vocab_size),
        candidate_tokens=sizes.candidate,
        refine_prompts=random_prompts(sizes.problems, linear, vocab_size),
        refine_tokens=sizes.refine,
        kv_gib=sizes.kv_gib,
    )


def figures(result: JobResult) -> Row:
    """Of a job, as a row."""
    return {
        "tokens_per_s": result.tokens_per_second,
        "candidates_s": result.seconds_candidates,
        "refine_s": result.seconds_refine,
        "tokens": result.tokens,
    }
