"""Who holds pages: running groups and the prefix cache."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from gsr_engine.kv.page_pool import PagePool, lacking_pages
from gsr_engine.kv.prefix_cache import PrefixCache
from gsr_engine.kv.segments import PAGE_SIZE, Segment, pages_for
from gsr_engine.requests.request import Group, GroupState, Request, Stream, StreamState


class Memory:
    """The page pool and the prefix cache, as the scheduler uses them.

    Nothing is copied and nothing is saved on preemption: whoever holds a segment again has its
    missing pages added and its missing KV computed.
    """

    def __init__(self, pool: PagePool, cache: PrefixCache | None) -> None:
        self.pool = pool
        self.cache = cache

    def new_prompt(self, token_ids: list[int], salt: str) -> Segment:
        """A segment for a prompt, behind what the cache knows of it."""
        return self.cache.new_prompt(token_ids, salt) if self.cache else Segment(token_ids)

    def make_free(self, num_pages: int) -> bool:
        """Whether that many pages are free, if need be after forgetting cached prompts."""
        return self._make_free(lambda: num_pages)

    def make_free_for(
        self, groups: Collection[Group], streams: bool = True, reserve: int = 0
    ) -> bool:
        """The same for what groups will hold, with or without their streams, and a reserve."""
        # Counted anew each time: what is forgotten may be what they would have read.
        return self._make_free(
            lambda: reserve + lacking_pages(hold for g in groups for hold in _holds(g, streams))
        )

    def _make_free(self, wanted: Callable[[], int]) -> bool:
        while (pages := wanted()) > self.pool.num_free:
            if pages > self.pool.num_free + self.pool.num_idle:
                return False
            if not self.cache or not self.cache.evict():
                return False
        return True

    def hold(self, group: Group) -> None:
        """Hold what a group reads and writes, but for its streams.

        Raises:
            OutOfPages: `make_free_for` was not asked, or said no.
        """
        self.pool.acquire(group.prompt.context)
        self.pool.hold(group.prompt, len(group.prompt))
        group.state = GroupState.PREFILLING
        if self.cache and group.salt is not None:
            group.pin = self.cache.pin(group.context, group.salt)

    def hold_stream(self, stream: Stream) -> None:
        """Hold the pages of a stream, one at least."""
        self.pool.hold(stream.segment, max(1, len(stream.segment)))
        stream.holds_pages = True
        if stream.state is StreamState.WAITING:
            stream.state = StreamState.RUNNING

    def drop_stream(self, stream: Stream) -> None:
        """Give a stream's pages back."""
        if stream.holds_pages:
            self.pool.drop(stream.segment, owned(stream.segment))
            stream.holds_pages = False
            if stream.state is StreamState.RUNNING:
                stream.state = StreamState.WAITING

    def release(self, group: Group) -> None:
        """Undo `hold`, and give the pages of its streams back; nothing if it is not held."""
        if not group.holds_pages:
            return
        for stream in group.streams:
            self.drop_stream(stream)
        self.pool.drop(group.prompt, owned(group.prompt))
        self.pool.release(group.prompt.context)
        if self.cache and group.pin is not None:
            self.cache.unpin(group.pin)
        group.pin, group.state = None, GroupState.WAITING

    def note_peak(self, request: Request[Any]) -> None:
        """Note what a request holds, should it be its most; asked before some is dropped."""
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
        """The pages and the prefix cache of this moment, as plain numbers."""
        return {
            "pages_total": self.pool.num_pages,
            "pages_used": self.pool.num_used,
            "pages_peak": self.pool.peak_used,
            "pages_cached": self.pool.num_idle,
            "prefix_cache": self.cache.as_dict() if self.cache else None,
        }

    def check(self, groups: Iterable[Group]) -> None:
        """Prove that every page is accounted for by some running groups and the cache.

        Raises:
            PoolCorrupted: it is not.
        """
        holds: list[tuple[Segment, int]] = []
        for group in groups:
            holds += [(span.segment, span.stop) for span in group.prompt.context]
            holds.append((group.prompt, owned(group.prompt)))
            holds += [(s.segment, owned(s.segment)) for s in group.streams if s.holds_pages]
        self.pool.check(holds, self.cache.spans if self.cache else [])


def owned(segment: Segment) -> int:
    """Tokens that the pages of a segment take: what its owner holds."""
    return len(segment.pages) * PAGE_SIZE


def _holds(group: Group, streams: bool) -> Iterator[tuple[Segment, int]]:
    if not group.holds_pages:
        yield from ((span.segment, span.stop) for span in group.prompt.context)
        yield group.prompt, len(group.prompt)
    if streams:
        for stream in group.streams:
            if stream.needed and not stream.holds_pages:
                yield stream.segment, max(1, len(stream.segment))
