"""What a request cost, as clients of OpenAI's API read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gsr_engine.outputs import Usage
from gsr_engine.serving.http.narrator import Outcome


def usage_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The usage of a whole reply.

    `prompt_tokens` are the user's, `completion_tokens` all that were generated, candidates
    included. `reasoning_tokens` are those of them that are in no answer. `cached_tokens` are those
    of the prompt that the prefix cache had. `gsr` has the cost by phase.
    """
    total = Usage()
    for outcome in outcomes:
        total.add(outcome.usage)
    phases = {
        name: {
            "tokens_computed": phase.tokens_computed,
            "tokens_reused": phase.tokens_reused,
            "seconds": round(phase.seconds, 6),
        }
        for name, phase in total.phases.items()
    }
    usage = counts(total.prompt_tokens, total.completion_tokens)
    prefill = total.phases.get("candidate_prefill")
    usage["prompt_tokens_details"] = {"cached_tokens": prefill.reused_cache if prefill else 0}
    reasoning = sum(outcome.reasoning_tokens for outcome in outcomes)
    usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    costs = outcomes[0].costs if len(outcomes) == 1 else {}
    queue = {"queue_seconds": round(total.queue_seconds, 6), "peak_pages": total.peak_pages}
    usage["gsr"] = {**phases, **costs, **queue}
    return usage


def counts(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """The three numbers that every client reads."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
