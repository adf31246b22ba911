"""The holders of pages: running groups and the prefix cache."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from gsr_engine.errors import OutOfPages
from gsr_engine.kv.page_pool import PagePool, lacking_pages
from gsr_engine.kv.prefix_cache import PrefixCache
from gsr_engine.kv.segments import PAGE_SIZE, Context, Segment, Span, pages_for
from gsr_engine.requests.request import Group, GroupState, Request, Stream, StreamState


class Memory:
    """The page pool and the prefix cache, as the scheduler uses them.

    A preemption copies and saves nothing. Holding a segment again adds its missing pages; its
    missing KV is then recomputed.
    """

    def __init__(self, pool: PagePool, cache: PrefixCache | None) -> None:
        self.pool = pool
        self.cache = cache

    def new_prompt(self, token_ids: list[int], salt: str, spare_pages: int) -> Segment:
        """A segment for a prompt, behind the prefix that the cache has.

        Every piece of its context may fill its last page in part only: `spare_pages` is how many
        pages that may cost at most.
        """
        if self.cache is None:
            return Segment(token_ids)
        return self.cache.new_prompt(token_ids, salt, most_pieces=spare_pages)

    def make_free(self, num_pages: int) -> bool:
        """Evict cached prompts until `num_pages` pages are free; returns whether they are."""
        return self._make_free(lambda: num_pages)

    def make_free_for(
        self, groups: Collection[Group], streams: bool = True, reserve: int = 0
    ) -> bool:
        """The same for the pages that groups will add, with or without streams, and a reserve."""
        # Counted after each eviction: it may have freed pages that these groups would have read.
        return self._make_free(
            lambda: reserve + lacking_pages(hold for g in groups for hold in _holds(g, streams))
        )

    def _make_free(self, wanted: Callable[[], int]) -> bool:
        while (pages := wanted()) > self.pool.num_free:
            if pages > self.pool.num_free + self.pool.num_idle:
                return False  # evicting everything would not suffice
            if not self.cache or not self.cache.evict():
                return False
        return True

    def hold(self, group: Group) -> None:
        """Hold the pages of a group's prompt and context, but not those of its streams.

        Raises:
            OutOfPages: too few pages are free, and nothing changed; `make_free_for` must have
                returned True before.
        """
        lacking = lacking_pages(_holds(group, streams=False))
        if lacking > self.pool.num_free:
            raise OutOfPages(f"{lacking} pages wanted, {self.pool.num_free} free")
        self.pool.acquire(group.prompt.context)
        self.pool.hold(group.prompt, len(group.prompt))
        group.state = GroupState.PREFILLING
        self.publish(group)

    def publish(self, group: Group) -> None:
        """Let the prefix cache find the prompt of a group that holds its pages.

        Does nothing as long as the prompt lacks scores: whoever finds a prompt may compute it, and
        would not score it.
        """
        unscored = group.scores is not None and group.scores.num_known < len(group.prompt)
        if self.cache and group.salt is not None and not unscored:
            group.pin = self.cache.pin(group.context, group.salt)

    def hold_stream(self, stream: Stream) -> None:
        """Hold the pages of a stream, at least one."""
        self.pool.hold(stream.segment, max(1, len(stream.segment)))
        stream.holds_pages = True
        if stream.state is StreamState.WAITING:
            stream.state = StreamState.RUNNING

    def grow_if_free(self, stream: Stream, num_tokens: int, reserve: int) -> int:
        """Make room for so many more tokens of a stream; returns for how many there is room.

        Nothing is evicted or preempted for them, and `reserve` pages stay free.
        """
        segment, stop = stream.segment, stream.num_drawn + num_tokens
        if lacking_pages([(segment, stop)]) + reserve <= self.pool.num_free:
            self.pool.grow(segment, stop)
        return min(num_tokens, owned(segment) - stream.num_drawn)

    def drop_stream(self, stream: Stream) -> None:
        """Free the pages of a stream."""
        if stream.holds_pages:
            self.pool.drop(stream.segment, owned(stream.segment))
            stream.holds_pages = False
            if stream.state is StreamState.RUNNING:
                stream.state = StreamState.WAITING

    def release(self, group: Group) -> None:
        """Free the pages of a group and of its streams; does nothing if it holds none."""
        if not group.holds_pages:
            return
        for stream in group.streams:
            self.drop_stream(stream)
        self.pool.drop(group.prompt, owned(group.prompt))
        self.pool.release(group.prompt.context)
        if self.cache and group.pin is not None:
            self.cache.unpin(group.pin)
        group.pin, group.state = None, GroupState.WAITING
        if not group.prompt.computed:
            group.prompt.sources = ()

    def cache_stream(self, group: Group, stream: Stream) -> None:
        """Let the prefix cache keep what a finished stream wrote, for prompts that go on there."""
        # The last token was not fed, or was fed in vain by a step that may still run.
        stop = min(stream.segment.computed, len(stream.segment) - 1)
        if self.cache and group.salt is not None and stop > 0:
            stream.segment.proven = stop  # later tokens were drawn from it, and were finite
            context = (*stream.segment.context, Span(stream.segment, 0, stop))
            self.cache.unpin(self.cache.pin(context, group.salt))

    def copied(self, group: Group, num_tokens: int) -> None:
        """Count tokens of a group's prompt whose KV is copied from the prefix cache."""
        self._count_reused(group, num_tokens)

    def count_evicted(self, group: Group) -> None:
        """Count what a prompt had found when it was looked up, and what has been evicted since."""
        spans = group.prompt.context
        gone = sum(len(s) for s in spans if len(s.segment.pages) < pages_for(s.stop))
        self._count_reused(group, -gone)

    def _count_reused(self, group: Group, num_tokens: int) -> None:
        if self.cache and num_tokens:
            group.request.usage.phase(group.phases[0]).reused_cache += num_tokens
            self.cache.hit_tokens += num_tokens

    def forget(self, contexts: Sequence[Context], groups: Sequence[Group]) -> None:
        """Forget the KV of contexts that no finite draw has proven, and all that came from it.

        So what these contexts copied is forgotten, and what copied or read any of it. `groups` are
        the running ones.
        """
        doubtful = [span for context in contexts for span in context]
        lost: set[Segment] = set()
        while doubtful:
            span = doubtful.pop()
            if span.segment.proven < span.stop and span.segment not in lost:
                lost.add(span.segment)
                doubtful.extend(span.segment.sources)
        if not lost:
            return
        cached = self.cache.spans if self.cache else []
        others = {*(group.prompt for group in groups), *(span.segment for span in cached)} - lost
        found = lost
        while found:
            found = {one for one in others if any(span.segment in found for span in one.reads)}
            others -= found
            lost |= found
        for segment in lost:
            segment.forget(segment.proven)

    def note_peak(self, request: Request[Any]) -> None:
        """Update a request's peak of held pages; must be called before pages are dropped."""
        held: dict[Segment, int] = {}
        for group in request.groups:
            if group.holds_pages:
                for span in group.prompt.context:
                    held[span.segment] = max(pages_for(span.stop), held.get(span.segment, 0))
                held[group.prompt] = len(group.prompt.pages)
                held.update(
                    (s.segment, len(s.segment.pages)) for s in group.streams if s.holds_pages
                )
        request.usage.peak_pages = max(request.usage.peak_pages, sum(held.values()))

    def as_dict(self) -> dict[str, Any]:
        """The current numbers of pages, and the counters of the prefix cache."""
        return {
            "pages_total": self.pool.num_pages,
            "pages_used": self.pool.num_used,
            "pages_peak": self.pool.peak_used,
            "pages_cached": self.pool.num_idle,
            "prefix_cache": self.cache.as_dict() if self.cache else None,
        }

    def check(self, groups: Iterable[Group]) -> None:
        """Prove that running groups and the cache account for every page.

        Raises:
            PoolCorrupted: a page is not accounted for.
        """
        holds: list[tuple[Segment, int]] = []
        for group in groups:
            holds += [(span.segment, span.stop) for span in group.prompt.context]
            holds.append((group.prompt, owned(group.prompt)))
            holds += [(s.segment, owned(s.segment)) for s in group.streams if s.holds_pages]
        self.pool.check(holds, self.cache.spans if self.cache else [])


def owned(segment: Segment) -> int:
    """Number of tokens that the pages of a segment have room for: its owner holds all of them."""
    return len(segment.pages) * PAGE_SIZE


def _holds(group: Group, streams: bool) -> Iterator[tuple[Segment, int]]:
    """(segment, tokens) of every hold that a group still lacks."""
    if not group.holds_pages:
        yield from ((span.segment, span.stop) for span in group.prompt.context)
        yield group.prompt, len(group.prompt)
    if streams:
        for stream in group.streams:
            if stream.needed and not stream.holds_pages:
                yield stream.segment, max(1, len(stream.segment))
