"""How often a request draws the same tokens alone and in company.

On a CPU in fp32 it always does (decision 4). On a GPU a product of other sizes may add in another
order, so this is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.gpu_check.record import Row
from gsr_engine import Engine, SamplingParams


def agreement_in_company(
    engine: Engine, prompts: Sequence[list[int]], params: SamplingParams
) -> Row:
    """Complete prompts all at once, then one by one, and compare.

    Args:
        engine: it must have no prefix cache, which would cut prompts otherwise.
        prompts: token ids.
        params: with a seed, so that both draw alike.

    Returns:
        `streams`: how many; `same_streams`: the share of those with equal tokens; `same_tokens`:
        the share of tokens before the first that differs.
    """
    # The index, which a seed is made with, is that of the prompt among all.
    together, apart = (
        [engine.new_generate(prompt, params, index=at) for at, prompt in enumerate(prompts)]
        for _ in range(2)
    )
    results = engine.run(together), [engine.run([request])[0] for request in apart]
    drawn, alone = ([one.token_ids for r in every for one in r.completions] for every in results)
    pairs = list(zip(drawn, alone, strict=True))
    total = sum(max(len(one), len(other)) for one, other in pairs)
    return {
        "streams": len(pairs),
        "same_streams": sum(one == other for one, other in pairs) / len(pairs),
        "same_tokens": sum(_common(one, other) for one, other in pairs) / total,
    }


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens come before the first that differs."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
