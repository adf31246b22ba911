"""The prefix cache finds the longest known prefix, to the token, and evicts the oldest leaf."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gsr_engine import Engine, SamplingParams
from gsr_engine.kv.page_pool import PagePool
from gsr_engine.kv.prefix_cache import MIN_SHARED, PIECE, Node, PrefixCache
from gsr_engine.kv.segments import Context, Segment, Span, context_length, pages_for

# Few distinct tokens, in runs, so that many prompts share a prefix.
PROMPTS = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 3), st.integers(1, 20), st.sampled_from("ab")),
    min_size=1,
    max_size=20,
)


def tokens_of(context: Context) -> list[int]:
    return [token for span in context for token in span.token_ids]


def hold(pool: PagePool, segment: Segment) -> None:
    pool.acquire(segment.context)
    pool.hold(segment, len(segment))


def drop(pool: PagePool, segment: Segment) -> None:
    pool.drop(segment, len(segment))
    pool.release(segment.context)


def whole(segment: Segment) -> Context:
    return (*segment.context, Span(segment, 0, len(segment)))


class World:
    """A cache over a pool, and prompts that come and go."""

    def __init__(self, pages: int = 1000) -> None:
        self.pool = PagePool(pages)
        self.cache = PrefixCache(self.pool)

    def new(self, token_ids: list[int], salt: str = "", most_pieces: int = 100) -> Segment:
        return self.cache.new_prompt(token_ids, salt, most_pieces)

    def begin(self, token_ids: list[int], salt: str = "") -> tuple[Segment, Node]:
        """A prompt that is computed and held."""
        segment = self.new(token_ids, salt)
        hold(self.pool, segment)
        segment.computed = segment.proven = len(segment)
        return segment, self.cache.pin(whole(segment), salt)

    def end(self, segment: Segment, node: Node) -> None:
        drop(self.pool, segment)
        self.cache.unpin(node)

    def cached(self, token_ids: list[int], salt: str = "") -> Segment:
        """A prompt whose group came and went: the cache alone holds it."""
        segment, node = self.begin(token_ids, salt)
        self.end(segment, node)
        return segment

    def known(self, token_ids: list[int], salt: str = "") -> int:
        """How many tokens of a prompt are found."""
        segment = self.new(token_ids, salt)
        return context_length(segment.context + segment.sources)


def test_a_common_prefix_is_found_to_the_token() -> None:
    world = World()
    world.cached([*range(40)])
    segment = world.new([*range(23), 99])
    assert (tokens_of(segment.sources), segment.token_ids) == ([*range(23)], [*range(23), 99])


def test_a_long_piece_is_referenced_and_a_short_one_is_copied() -> None:
    world = World()
    long = world.cached([*range(PIECE)])
    middle = world.new([*range(PIECE), 7, 8])
    assert middle.context == (Span(long, 0, PIECE),)
    assert (middle.position, middle.token_ids, middle.sources) == (PIECE, [7, 8], ())
    short = world.new([*range(PIECE - 1), 7])
    assert (short.context, short.sources) == ((), (Span(long, 0, PIECE - 1),))


def test_a_known_prompt_leaves_one_token_to_compute() -> None:
    world = World()
    world.cached([*range(40)])
    assert world.known([*range(40)]) == 39


def test_a_short_prefix_is_recomputed() -> None:
    world = World()
    world.cached([*range(40)])
    assert world.known([*range(MIN_SHARED - 1), 99]) == 0


def test_salts_share_nothing() -> None:
    world = World()
    world.cached([*range(40)], salt="one tenant")
    assert world.known([*range(40)], "another") == 0


def test_a_salt_is_forgotten_with_its_last_prompt() -> None:
    world = World()
    for user in range(20):
        world.cached([*range(40)], salt=f"user {user}")
    assert world.cache.as_dict()["salts"] == 20
    world.cache.clear()
    assert world.cache.as_dict()["salts"] == 0


def test_the_least_recently_used_prompt_is_evicted_first() -> None:
    world = World()
    for begin in (0, 100, 200):
        world.cached([*range(begin, begin + 40)])
    world.cached([*range(40)])  # used again
    assert world.cache.evict()
    assert world.known([*range(100, 140)]) == 0
    assert world.known([*range(40)]) == 39


def test_what_was_looked_up_last_is_evicted_last() -> None:
    world = World()
    for begin in (0, 100):
        world.cached([*range(begin, begin + 40)])
    world.new([*range(40), 9])
    assert world.cache.evict()
    assert world.known([*range(40)]) == 39


def test_a_prompt_that_must_fit_the_pool_exactly_references_nothing() -> None:
    world = World()
    world.cached([*range(PIECE)])
    segment = world.new([*range(PIECE), 7], most_pieces=0)
    assert segment.context == ()
    assert len(segment.sources) == 1


def test_a_prompt_that_grows_token_by_token_leaves_one_copy_of_itself() -> None:
    world = World()
    for length in range(16, 600):
        segment = world.cached([*range(length)])
        assert len(segment.context) <= length / PIECE
    assert world.pool.num_idle <= pages_for(600) + 600 // PIECE
    assert len(world.cache.spans) <= 600 // PIECE + 1


def test_siblings_of_a_short_beginning_keep_what_they_share() -> None:
    """The first of them is evicted: a sibling's copy takes over, for pages that it has anyway."""
    world = World()
    first = world.cached([*range(40), *[1] * 40])
    second, node = world.begin([*range(40), *[2] * 40])
    assert second.sources == (Span(first, 0, 40),)
    while world.cache.evict():
        pass
    assert world.pool.num_idle == 0
    assert world.known([*range(40), 3]) == 40
    world.end(second, node)


def test_idle_pages_on_the_way_to_a_pinned_node_are_freed() -> None:
    """Twins: both computed the same tokens, and only the copy of the one that ended is cached."""
    world = World(pages=30)
    tokens = [*range(200)]
    twin = world.new(tokens)  # made before the other was there, so it found nothing
    other, node = world.begin(tokens)
    hold(world.pool, twin)
    pinned = world.cache.pin(whole(twin), "")
    world.end(other, node)
    assert world.pool.num_idle == pages_for(200)
    assert world.cache.evict()
    assert (world.pool.num_idle, world.pool.num_used) == (0, pages_for(200))
    world.pool.check([(twin, 200)], world.cache.spans)
    world.end(twin, pinned)
    assert world.pool.num_free == 30


@given(PROMPTS, st.lists(st.integers(0, 3), max_size=20))
@settings(deadline=None, max_examples=100)
def test_a_prompt_finds_the_longest_known_beginning(
    prompts: list[tuple[int, int, int, str]], evictions: list[int]
) -> None:
    world = World(pages=10_000)
    known: dict[str, list[list[int]]] = {"a": [], "b": []}
    for common, middle, end, salt in prompts:
        token_ids = [7] * common + [middle] * 5 + [8] * end
        segment = world.new(token_ids, salt)
        found = context_length(segment.context + segment.sources)
        assert tokens_of(segment.context) + segment.token_ids == token_ids
        assert tokens_of(segment.context + segment.sources) == token_ids[:found]
        assert segment.position == context_length(segment.context)
        best = max((_common(token_ids, other) for other in known[salt]), default=0)
        best = min(best, len(token_ids) - 1)
        assert found == (best if best >= MIN_SHARED else 0)
        assert len(segment.context) <= len(token_ids) / PIECE
        _check_closed(segment.context)
        hold(world.pool, segment)
        segment.computed = segment.proven = len(segment)
        node = world.cache.pin(whole(segment), salt)
        known[salt].append(token_ids)
        world.pool.check([(s.segment, s.stop) for s in whole(segment)], world.cache.spans)
        world.end(segment, node)
        assert world.pool.num_used == 0
    for _ in evictions:
        world.cache.evict()
        world.pool.check([], world.cache.spans)
    world.cache.clear()
    assert world.pool.num_free == world.pool.num_pages


def _check_closed(context: Context) -> None:
    """A context names whatever its segments read, so its reader can recompute all of it."""
    stops = {span.segment: span.stop for span in context}
    for span in context:
        for read in span.segment.context:
            assert stops.get(read.segment, 0) >= read.stop


def _common(left: list[int], right: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None) or (
        min(len(left), len(right)) if left[:1] == right[:1] else 0
    )


def test_what_is_held_and_pinned_stays() -> None:
    world = World()
    held = [world.begin([token] * 40) for token in (1, 2, 3)]
    assert not world.cache.evict()
    for index in (1, 0):
        world.end(*held[index])
    assert world.cache.evict()
    assert world.known([2] * 40) == 0  # unpinned first, so forgotten first
    assert world.known([1] * 40) == 39
    assert world.cache.evict()
    assert not world.cache.evict()
    assert world.known([3] * 40) == 39
    world.end(*held[2])
    assert world.pool.num_idle == pages_for(40)


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
