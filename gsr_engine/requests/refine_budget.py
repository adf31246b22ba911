"""Bounds the lengths of the parts of one selfRef@k request, and the pages that they may fill."""

from __future__ import annotations

from dataclasses import dataclass

from gsr_engine.errors import InvalidRequest
from gsr_engine.kv.segments import pages_for
from gsr_engine.params import SamplingParams, SelfRefineParams
from gsr_engine.requests.limits import Limits
from gsr_engine.text.problem_prompts import ProblemPrompts


@dataclass(frozen=True, slots=True)
class RefineBudget:
    """Bounds of one request, fixed at submission.

    Attributes:
        candidate: sampling of a candidate, with `max_tokens`.
        refine: sampling of the refinement, with `max_tokens`.
        summary_tokens: longest summary: the requested length, shortened so that all summaries and
            the refinement fit into the context.
        most_pages: the most KV pages that the request needs at a time if it runs alone.
    """

    candidate: SamplingParams
    refine: SamplingParams
    summary_tokens: int
    most_pages: int


def plan_budget(params: SelfRefineParams, problem: ProblemPrompts, limits: Limits) -> RefineBudget:
    """The bounds of a request for one problem.

    A length that the caller left open takes the room that the context leaves, but at most an even
    share of the pool. The refinement keeps at least a quarter of the context, unless its
    `max_tokens` is lower.

    Raises:
        InvalidRequest: the problem and k summaries do not fit the context, or the request does not
            fit the pool.
    """
    refine_room = max(1, limits.max_model_len // 4)
    if params.refine.max_tokens is not None:
        refine_room = min(refine_room, params.refine.max_tokens)
    direct = len(problem.direct)
    # Equal shares for k candidates, k summaries, the refinement's prompt and the refinement.
    share = (limits.num_pages - pages_for(direct)) // (2 * params.k + 2)
    shown = params.most_shown
    if params.layout == "linear":
        fixed = len(problem.linear([[]] * shown))
        summary_room = (limits.max_model_len - refine_room - fixed) // shown
        behind = direct
    else:
        fixed = len(problem.branched_glue)
        summary_room = limits.max_model_len - refine_room - fixed - direct
        behind = direct + fixed + refine_room
    if summary_room < 1:
        raise InvalidRequest(
            "k",
            f"{shown} candidates of a prompt of {direct} tokens do not fit into a "
            f"context of {limits.max_model_len}",
        )
    candidate = limits.bound(params.candidate, behind, share)
    summary_tokens = min(params.summary_tokens, summary_room)
    longest = summary_tokens
    if not params.widths:
        longest = min(summary_tokens, candidate.max_tokens or 1)
    refine_prompt = fixed + (shown * longest if params.layout == "linear" else 0)
    refine = limits.bound(params.refine, refine_prompt, share)
    pages = _most_pages(params, limits, direct, candidate, refine, refine_prompt, longest)
    return RefineBudget(candidate, refine, summary_tokens, pages)


def _most_pages(
    params: SelfRefineParams,
    limits: Limits,
    direct: int,
    candidate: SamplingParams,
    refine: SamplingParams,
    refine_prompt: int,
    summary: int,
) -> int:
    """The most pages at a time. Raises InvalidRequest if they are more than the pool has."""
    # If the request runs alone, its streams may run one after the other. Kept candidates (branched)
    # and the prompts of a round must hold their pages at the same time.
    at_once = params.k if params.layout == "branched" else 1
    candidate_pages = at_once * pages_for(candidate.max_tokens or 1)
    most = max(params.k, *params.round_widths)
    prompts = 1 if params.subset is None else max(params.round_widths)
    refine_pages = prompts * pages_for(refine_prompt) + pages_for(refine.max_tokens or 1)
    if params.layout == "branched":  # the candidates stay, and summaries may be prefilled again
        refine_pages += candidate_pages + most * pages_for(summary)
    # As they finish, candidates enter the prompt of the refinement while others still decode.
    together = params.order == "as_finished"
    needed = candidate_pages + refine_pages if together else max(candidate_pages, refine_pages)
    pages = pages_for(direct) + needed
    limits.check_pages(
        pages,
        f"{pages_for(direct)} for the problem, {candidate_pages} for {at_once} candidates of "
        f"{candidate.max_tokens} tokens, {refine_pages} in the {params.layout} refinement",
    )
    return pages
