"""How long the parts of one selfRef@k request may be, and the pages that they fill at most."""

from __future__ import annotations

from dataclasses import dataclass

from gsr_engine.errors import InvalidRequest
from gsr_engine.kv.segments import pages_for
from gsr_engine.params import SamplingParams, SelfRefineParams
from gsr_engine.requests.limits import Limits
from gsr_engine.text.prompts import Prompts


@dataclass(frozen=True, slots=True)
class RefineBudget:
    """Bounds of one request, fixed at submission.

    Attributes:
        candidate: sampling of a candidate, `max_tokens` given.
        refine: sampling of the refinement, `max_tokens` given.
        summary_tokens: longest summary; what was asked for, cut so that k of them and the
            refinement fit into the context.
    """

    candidate: SamplingParams
    refine: SamplingParams
    summary_tokens: int


def plan_budget(
    params: SelfRefineParams,
    problem: list[int],
    direct: int,
    prompts: Prompts,
    limits: Limits,
) -> RefineBudget:
    """The bounds of a request for one problem whose direct prompt has `direct` tokens.

    A length that the caller left open takes what the context leaves, but no more than an even
    share of the pool; the refinement keeps at least a quarter of the context.

    Raises:
        InvalidRequest: the problem or k candidates do not fit the context, or the request not
            the pool.
    """
    refine_room = max(1, limits.max_model_len // 4)
    if params.refine.max_tokens is not None:
        refine_room = min(refine_room, params.refine.max_tokens)
    share = (limits.num_pages - pages_for(direct)) // (2 * params.k + 2)
    shown = params.most_shown
    if params.layout == "linear":
        fixed = len(prompts.linear(problem, [[]] * shown))
        summary_room = (limits.max_model_len - refine_room - fixed) // shown
        behind = direct
    else:
        fixed = len(prompts.branched_glue(problem))
        summary_room = limits.max_model_len - refine_room - fixed - direct
        behind = direct + fixed + refine_room
    if summary_room < 1:
        raise InvalidRequest(
            "k",
            f"{shown} candidates of a problem of {len(problem)} tokens do not fit into a "
            f"context of {limits.max_model_len}",
        )
    candidate = limits.bound(params.candidate, behind, share)
    summary_tokens = min(params.summary_tokens, summary_room)
    longest = summary_tokens
    if not params.widths:
        longest = min(summary_tokens, candidate.max_tokens or 1)
    refine_prompt = fixed + (shown * longest if params.layout == "linear" else 0)
    refine = limits.bound(params.refine, refine_prompt, share)
    _check_pages(params, limits, direct, candidate, refine, refine_prompt, longest)
    return RefineBudget(candidate, refine, summary_tokens)


def _check_pages(
    params: SelfRefineParams,
    limits: Limits,
    direct: int,
    candidate: SamplingParams,
    refine: SamplingParams,
    refine_prompt: int,
    summary: int,
) -> None:
    """Whether the request could finish alone in an empty pool."""
    # Alone, streams that nothing keeps can run one after the other, but not their prompts.
    at_once = params.k if params.layout == "branched" else 1
    candidate_pages = at_once * pages_for(candidate.max_tokens or 1)
    most = max(params.k, *params.round_widths)
    prompts = 1 if params.subset is None else max(params.round_widths)
    refine_pages = prompts * pages_for(refine_prompt) + pages_for(refine.max_tokens or 1)
    if params.layout == "branched":  # the candidates stay, and their summaries may be read again
        refine_pages += candidate_pages + most * pages_for(summary)
    pages = pages_for(direct) + max(candidate_pages, refine_pages)
    limits.check_pages(
        pages,
        f"{pages_for(direct)} for the problem, {candidate_pages} for {at_once} candidates of "
        f"{candidate.max_tokens} tokens, {refine_pages} in the {params.layout} refinement",
    )
