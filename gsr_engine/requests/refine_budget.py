"""Bounds the lengths of the parts of one selfRef@k request, and the pages that they may fill."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gsr_engine.errors import InvalidRequest
from gsr_engine.kv.segments import pages_for
from gsr_engine.params import SamplingParams, SelfRefineParams
from gsr_engine.requests.limits import Limits
from gsr_engine.text.problem_prompts import ProblemPrompts


@dataclass(frozen=True, slots=True)
class RefineBudget:
    """Bounds of one request, fixed at submission. They do not depend on the pool.

    Attributes:
        candidate: sampling of a candidate, with `max_tokens`.
        refine: sampling of a refinement. Its `max_tokens` may be more than the context leaves, or
            None: the room is known once its prompt is.
        summary_tokens: longest summary: the requested length, shortened so that all summaries and
            the refinement fit into the context.
        most_pages: the most KV pages that the request needs at a time if it runs alone.
        parts: of what these pages consist, for an error.
    """

    candidate: SamplingParams
    refine: SamplingParams
    summary_tokens: int
    most_pages: int
    parts: str


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Token counts of what is in the prompts besides solutions.

    Attributes:
        direct: the direct prompt.
        fixed: a linear refinement's prompt without its summaries, or the branched glue.
    """

    direct: int
    fixed: int


def plan_budget(
    params: SelfRefineParams, problem: ProblemPrompts, limits: Limits, *, generates: bool = True
) -> RefineBudget:
    """The bounds of a request for one problem.

    If it does not generate its candidates, `params.candidate` has the length of the longest. The
    refinement keeps at least a quarter of the context, unless its `max_tokens` is lower.

    Raises:
        InvalidRequest: the problem and k summaries do not fit the context, or the request does not
            fit the pool; then the error names the largest `max_tokens` that fits.
    """
    if params.layout == "linear":
        # A single candidate may have a longer text of its own.
        fixed = max(len(problem.linear([[]] * k)) for k in (1, params.most_shown))
    else:
        fixed = len(problem.branched_glue)
    sizes = _Sizes(len(problem.direct), fixed)
    budget = _budget(params, sizes, limits)
    limits.check_pages(
        budget.most_pages,
        budget.parts,
        lambda most: _budget(_at_most(most, params, generates), sizes, limits).most_pages,
    )
    return budget


def _at_most(most: int, params: SelfRefineParams, generates: bool) -> SelfRefineParams:
    """The same with every `max_tokens` of what is generated at most so much."""

    def bounded(one: SamplingParams) -> SamplingParams:
        return replace(one, max_tokens=min(most, one.max_tokens or most), min_tokens=0)

    candidate = bounded(params.candidate) if generates else params.candidate
    return replace(params, candidate=candidate, refine=bounded(params.refine))


def _budget(params: SelfRefineParams, sizes: _Sizes, limits: Limits) -> RefineBudget:
    """The bounds. Raises InvalidRequest if the context is too small."""
    refine_room = max(1, limits.max_model_len // 4)
    if params.refine.max_tokens is not None:
        refine_room = min(refine_room, params.refine.max_tokens)
    shown, direct, fixed = params.most_shown, sizes.direct, sizes.fixed
    linear = params.layout == "linear"
    if linear:
        summary_room = (limits.max_model_len - refine_room - fixed) // shown
        behind = direct
    else:
        summary_room = limits.max_model_len - refine_room - fixed - direct
        behind = direct + fixed + refine_room
    if summary_room < 1:
        raise InvalidRequest(
            "k",
            f"{shown} candidates of a prompt of {direct} tokens do not fit into a "
            f"context of {limits.max_model_len}",
        )
    candidate = limits.bound(params.candidate, behind)
    summary_tokens = min(params.summary_tokens, summary_room)
    written = candidate.max_tokens or 1
    if params.widths:  # later rounds read refinements
        written = max(written, params.refine.max_tokens or limits.max_model_len)
    longest = min(summary_tokens, written)
    refine_prompt = fixed + (shown * longest if linear else 0)
    limits.check_room(
        params.refine, limits.max_model_len - refine_prompt if linear else refine_room
    )
    pages, parts = _most_pages(params, limits, direct, candidate, refine_prompt, longest)
    return RefineBudget(candidate, params.refine, summary_tokens, pages, parts)


def _most_pages(
    params: SelfRefineParams,
    limits: Limits,
    direct: int,
    candidate: SamplingParams,
    refine_prompt: int,
    summary: int,
) -> tuple[int, str]:
    """The most pages at a time, and of what they consist."""
    # If the request runs alone, its streams may run one after the other. Kept candidates (branched)
    # and the prompts of a round must hold their pages at the same time.
    at_once = params.k if params.layout == "branched" else 1
    candidate_pages = at_once * pages_for(candidate.max_tokens or 1)
    most = max(params.k, *params.round_widths)
    prompts = 1 if params.subset is None else max(params.round_widths)
    # The shorter a prompt turns out, the more room its refinement has: in pages, both together
    # take at most one more than the context.
    longest = min(params.refine.max_tokens or limits.max_model_len, limits.max_model_len)
    together = pages_for(refine_prompt) + pages_for(longest)
    # Several prompts share their beginning, which may take a page more than it saves them.
    refine_pages = (prompts - 1) * pages_for(refine_prompt) + (prompts > 1)
    refine_pages += min(together, pages_for(limits.max_model_len) + 1)
    if params.layout == "branched":  # the candidates stay, and summaries may be prefilled again
        refine_pages += candidate_pages + most * pages_for(summary)
    # As they finish, candidates enter the prompt of the refinement while others still decode.
    both = params.order == "as_finished"
    needed = candidate_pages + refine_pages if both else max(candidate_pages, refine_pages)
    candidates = "a candidate" if at_once == 1 else f"{at_once} candidates"
    parts = (
        f"{pages_for(direct)} for the problem, {candidate_pages} for {candidates} of "
        f"{candidate.max_tokens} tokens, {refine_pages} in the {params.layout} refinement"
    )
    return pages_for(direct) + needed, parts
