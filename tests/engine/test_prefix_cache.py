"""The prefix cache finds the longest known prefix, to the token, and evicts the oldest leaf."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gsr_engine import Engine, SamplingParams
from gsr_engine.kv.page_pool import PagePool
from gsr_engine.kv.prefix_cache import MIN_SHARED, PrefixCache
from gsr_engine.kv.segments import Segment, Span, context_length, pages_for

# Few distinct tokens, in runs, so that many prompts share a prefix.
PROMPTS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 3), st.integers(1, 20), st.sampled_from("ab")),
    min_size=1,
    max_size=20,
)


def shown(segment: Segment) -> list[int]:
    """All tokens that the last token of a prompt sees."""
    return [t for span in segment.context for t in span.token_ids] + segment.token_ids


def cached(cache: PrefixCache, pool: PagePool, token_ids: list[int], salt: str = "") -> Segment:
    """A prompt whose group came and went: the cache alone holds it."""
    segment = cache.new_prompt(token_ids, salt)
    pool.acquire(segment.context)
    pool.hold(segment, len(segment))
    node = cache.pin((*segment.context, Span(segment, 0, len(segment))), salt)
    pool.drop(segment, len(segment))
    pool.release(segment.context)
    cache.unpin(node)
    return segment


def test_a_common_prefix_is_shared_to_the_token() -> None:
    cache = PrefixCache(pool := PagePool(10))
    cached(cache, pool, [*range(40)])
    segment = cache.new_prompt([*range(23), 99], "")
    assert (segment.position, segment.token_ids) == (23, [99])


def test_a_known_prompt_leaves_one_token_to_compute() -> None:
    cache = PrefixCache(pool := PagePool(10))
    cached(cache, pool, [*range(40)])
    assert cache.new_prompt([*range(40)], "").token_ids == [39]


def test_a_short_prefix_is_recomputed() -> None:
    cache = PrefixCache(pool := PagePool(10))
    cached(cache, pool, [*range(40)])
    assert cache.new_prompt([*range(MIN_SHARED - 1), 99], "").context == ()


def test_salts_share_nothing() -> None:
    cache = PrefixCache(pool := PagePool(10))
    cached(cache, pool, [*range(40)], salt="one tenant")
    assert cache.new_prompt([*range(40)], "another").context == ()


def test_a_salt_is_forgotten_with_its_last_prompt() -> None:
    cache = PrefixCache(pool := PagePool(100))
    for user in range(20):
        cached(cache, pool, [*range(40)], salt=f"user {user}")
    assert cache.as_dict()["salts"] == 20
    cache.clear()
    assert cache.as_dict()["salts"] == 0


def test_the_least_recently_used_prompt_is_evicted_first() -> None:
    cache = PrefixCache(pool := PagePool(10))
    for begin in (0, 100, 200):
        cached(cache, pool, [*range(begin, begin + 40)])
    cached(cache, pool, [*range(40)])  # used again
    assert cache.evict()
    assert cache.new_prompt([*range(100, 140)], "").context == ()
    assert cache.new_prompt([*range(40)], "").context != ()


@given(PROMPTS, st.lists(st.integers(0, 3), max_size=20))
@settings(deadline=None, max_examples=100)
def test_a_prompt_finds_the_longest_known_beginning(
    prompts: list[tuple[int, int, int, str]], evictions: list[int]
) -> None:
    pool = PagePool(10_000)
    cache = PrefixCache(pool)
    known: dict[str, list[list[int]]] = {"a": [], "b": []}
    for common, middle, end, salt in prompts:
        token_ids = [7] * common + [middle] * 5 + [8] * end
        segment = cache.new_prompt(token_ids, salt)
        assert shown(segment) == token_ids
        assert segment.position == context_length(segment.context) < len(token_ids)
        best = max((_common(token_ids, other) for other in known[salt]), default=0)
        best = min(best, len(token_ids) - 1)
        assert segment.position == (best if best >= MIN_SHARED else 0)
        pool.acquire(segment.context)
        pool.hold(segment, len(segment))
        node = cache.pin((*segment.context, Span(segment, 0, len(segment))), salt)
        known[salt].append(token_ids)
        pool.check(
            [*((s.segment, s.stop) for s in segment.context), (segment, len(segment))], cache.spans
        )
        pool.drop(segment, len(segment))
        pool.release(segment.context)
        cache.unpin(node)
        assert pool.num_used == 0
    for _ in evictions:
        cache.evict()
        pool.check([], cache.spans)
    cache.clear()
    assert pool.num_free == pool.num_pages


def _common(left: list[int], right: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None) or (
        min(len(left), len(right)) if left[:1] == right[:1] else 0
    )


def test_what_is_pinned_stays_and_the_oldest_goes_first() -> None:
    pool = PagePool(100)
    cache = PrefixCache(pool)
    nodes = []
    for token in (1, 2, 3):
        segment = cache.new_prompt([token] * 40, "")
        pool.hold(segment, 40)
        nodes.append(cache.pin((Span(segment, 0, 40),), ""))
        pool.drop(segment, 40)
    assert not cache.evict()  # all are pinned
    for index in (1, 0):
        cache.unpin(nodes[index])
    assert cache.evict()
    assert cache.new_prompt([2] * 40, "").position == 0  # unpinned first, so forgotten first
    assert cache.new_prompt([1] * 40, "").position == 39
    assert cache.evict()
    assert not cache.evict()
    assert cache.new_prompt([3] * 40, "").position == 39
    assert pool.num_idle == pages_for(40)
    assert cache.hit_tokens == 78


def test_what_is_submitted_together_is_prefilled_once(qwen2: Path) -> None:
    prompt = list(range(5, 60))
    short = SamplingParams(max_tokens=4, seed=1)
    with Engine.from_pretrained(qwen2) as engine:
        engine.generate([prompt] * 4, short)
        prefill = engine.stats()["phases"]["candidate_prefill"]
        assert prefill["tokens_computed"] == len(prompt) + 3
        assert prefill["reused_cache"] == 3 * (len(prompt) - 1)
        salted = replace(short, cache_salt="another tenant")
        engine.generate([prompt], salted)
        after = engine.stats()["phases"]["candidate_prefill"]
        assert after["tokens_computed"] == prefill["tokens_computed"] + len(prompt)
        assert engine.stats()["prefix_cache"]["hit_tokens"] == after["reused_cache"]


def test_readers_go_on_when_the_writer_of_their_beginning_is_aborted(qwen2: Path) -> None:
    prompt = list(range(5, 85)) * 2
    short = SamplingParams(max_tokens=4, temperature=0.0)
    with Engine.from_pretrained(qwen2, max_batch_tokens=32, max_num_seqs=8) as engine:
        writer, reader = (engine.new_generate(prompt, short) for _ in range(2))
        for request in (writer, reader):
            engine.submit(request)
        engine.step()  # a part of the prompt is computed, by the writer
        engine.abort(writer)
        while engine.has_work:
            engine.step()
            engine.check()
        assert reader.result
        assert writer.result
        assert [c.finish_reason for c in writer.result.completions] == ["abort"]
        alone = engine.generate([prompt], short)[0]
        assert reader.result.completions[0].token_ids == alone.completions[0].token_ids
