"""The prefix cache: finds the spans that already hold the KV of a prompt's first tokens.

The cache is a tree over token ids, one per salt. A node's edge is a span: the tokens after its
parent's. A prompt walks down as far as its tokens agree, token by token. What it finds is the
segment of the last edge with the context of that segment: together they spell the walk.

    salt ── (problem A, 0, 40) ─┬─ (problem A, 40, 90)
                                └─ (problem B, 0, 33)      B agrees with A in 40 tokens

Pieces that are long enough become the context of the new prompt. The KV of the others is copied
into the prompt's own pages (its `sources`), so a context has few pieces whatever came before. Spans
may be cached before they are computed: their first reader waits for them or computes them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from gsr_engine.kv.page_pool import PagePool
from gsr_engine.kv.segments import (
    PAGE_SIZE,
    Context,
    Segment,
    Span,
    context_length,
    first_tokens,
)

MIN_SHARED = 16
"""A shorter common prefix (a chat header) is recomputed: sharing it would save nothing."""
PIECE = 8 * PAGE_SIZE
"""A prompt's context has at most one piece for so many of its tokens. With the prompt itself, and a
refinement's prompt behind it, a context of n tokens has at most n / 128 + 2 pieces."""


@dataclass(eq=False, slots=True)
class Node:
    """A node with the edge that leads to it, its `span`.

    `pins` counts the groups whose cached tokens end at this node. A pin keeps the path from the
    root, because leaves are evicted first. `salt` is set on a root only. A node that is not in the
    tree any more has no parent.
    """

    span: Span
    parent: Node | None
    children: dict[int, Node] = field(default_factory=dict)
    pins: int = 0
    salt: str = ""

    @property
    def first_token(self) -> int:
        """The token that leads from the parent to this node."""
        return self.span.segment.token_ids[self.span.start]

    @property
    def is_root(self) -> bool:
        """Whether it is the root of a salt's tree: only that has an empty edge."""
        return not len(self.span)

    def holds_tokens_of(self, parent: Node) -> bool:
        """Whether this node's segment holds the tokens of its parent's edge, too: as a copy."""
        return not parent.is_root and self.span.start >= len(parent.span)

    def span_over(self, parent: Node) -> Span:
        """The tokens of its parent's edge in this node's own segment."""
        start = self.span.start
        return Span(self.span.segment, start - len(parent.span), start)


class PrefixCache:
    """Holds the pages of cached spans until they are evicted, the least recently used leaf first.

    Attributes:
        queried_tokens: tokens of all prompts that were looked up.
        hit_tokens: those of them whose KV was shared or copied.
    """

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._roots: dict[str, Node] = {}
        self._idle: OrderedDict[Node, None] = OrderedDict()  # leaves without pins, oldest first
        self.queried_tokens = 0
        self.hit_tokens = 0

    def new_prompt(self, token_ids: list[int], salt: str, most_pieces: int) -> Segment:
        """A segment for a prompt behind the cached prefix, of which it references long pieces.

        Its context has at most `most_pieces` pieces, and at most one for 128 tokens. At least one
        token is new, because a step needs a row to draw from.
        """
        found = first_tokens(self._find(token_ids, salt), len(token_ids) - 1)
        if context_length(found) < MIN_SHARED:
            found = ()
        count = _num_referenced(found[:most_pieces])
        context, sources = found[:count], found[count:]
        begin = context_length(context)
        self.queried_tokens += len(token_ids)
        self.hit_tokens += begin
        return Segment(token_ids[begin:], position=begin, context=context, sources=sources)

    def as_dict(self) -> dict[str, int]:
        """The counters as plain numbers."""
        return {
            "queried_tokens": self.queried_tokens,
            "hit_tokens": self.hit_tokens,
            "salts": len(self._roots),
        }

    def _find(self, token_ids: list[int], salt: str) -> Context:
        """The longest known prefix of a prompt: the last segment of the walk, and its context.

        A context is closed: it names everything that its segments read, so a reader that holds it
        can recompute whatever of it was evicted.
        """
        node, done, found = self._roots.get(salt), 0, Span(Segment([]), 0, 0)
        while node is not None and done < len(token_ids):
            child = node.children.get(token_ids[done])
            if child is None:
                break
            agreed = _agreement(child.span, token_ids, done, len(token_ids))
            found = Span(child.span.segment, 0, child.span.start + agreed)
            done += agreed
            if child in self._idle:
                self._idle.move_to_end(child)
            node = child if agreed == len(child.span) else None  # None: they part inside the edge
        return (*found.segment.context, found)

    def pin(self, context: Context, salt: str) -> Node:
        """Cache the tokens of a context and keep them until `unpin`; returns their last node.

        The caller holds the pages of the context. If the cache already has other spans with the
        same tokens, it keeps those spans.
        """
        root = Node(Span(Segment([]), 0, 0), None, salt=salt)
        node = self._roots.setdefault(salt, root)
        for span in context:
            start = span.start
            while start < span.stop:
                child = node.children.get(span.segment.token_ids[start])
                if child is None:
                    child = self._add(node, Span(span.segment, start, span.stop))
                    start = span.stop
                else:
                    agreed = _agreement(child.span, span.segment.token_ids, start, span.stop)
                    if agreed < len(child.span):  # a node must end where the paths part
                        child = self._split(child, agreed)
                    start += agreed
                node = child
        node.pins += 1
        self._idle.pop(node, None)
        return node

    def unpin(self, node: Node) -> None:
        """Undo one `pin`; its path is now the most recently used.

        Ancestors that lead nowhere else, and whose tokens the node's own pages hold as well, are
        replaced by it: a conversation that grows leaves one copy of itself, not one for each turn.
        """
        node.pins -= 1
        if node.pins or node.parent is None:  # without a parent: it was dropped meanwhile
            return
        while (parent := node.parent) is not None and _can_replace(node, parent):
            self._pool.uncache(parent.span)
            start = node.span_over(parent).start
            node.span = Span(node.span.segment, start, node.span.stop)
            node.parent, parent.parent = parent.parent, None
            if node.parent is not None:
                node.parent.children[node.first_token] = node
        if not node.children:
            self._idle[node] = None

    def _add(self, parent: Node, span: Span) -> Node:
        self._pool.cache(span)
        node = Node(span, parent)
        parent.children[node.first_token] = node
        self._idle.pop(parent, None)
        return node

    def _split(self, node: Node, length: int) -> Node:
        """Cut a node's edge after `length` tokens; returns the new node of the upper half.

        The old node keeps the lower half, its children and its pins.
        """
        span, parent = node.span, node.parent
        cut = span.start + length
        upper = Node(Span(span.segment, span.start, cut), parent, {})
        self._pool.cache(upper.span)
        if parent is not None:
            parent.children[upper.first_token] = upper
        node.span, node.parent = Span(span.segment, cut, span.stop), upper
        upper.children[node.first_token] = node
        return upper

    def evict(self) -> bool:
        """Drop the least recently used leaf without a pin, or else every idle page.

        Returns False if the cache holds nothing that could be dropped: then no page is idle.
        """
        if self._idle:
            node, _ = self._idle.popitem(last=False)
            self._drop(node)
            return True
        if self._pool.num_idle:
            self._drop_idle()
            return True
        return False

    def _drop_idle(self) -> None:
        """Free idle pages on the way to pinned nodes, so that they stand in nobody's way.

        They are what is left of a request that computed the same tokens as the pinned ones. A
        child that holds these tokens takes their place; without one the node is dropped with all
        below it. Groups keep the pages that they hold; only nobody finds them any more.
        """
        nodes = [child for root in list(self._roots.values()) for child in root.children.values()]
        while nodes:
            node = nodes.pop()
            if self._pool.is_idle(node.span):
                heirs = (one for one in node.children.values() if one.holds_tokens_of(node))
                heir = next((one for one in heirs if not self._pool.is_idle(one.span)), None)
                if heir is None:
                    self._drop(node)
                    continue
                old, node.span = node.span, heir.span_over(node)
                self._pool.cache(node.span)
                self._pool.uncache(old)
            nodes.extend(node.children.values())

    def _drop(self, node: Node) -> None:
        """Remove a node from the tree, with all nodes below it."""
        parent = node.parent
        if parent is not None:
            del parent.children[node.first_token]
            if not parent.children and not parent.pins:
                self._became_leaf(parent)
        for one in list(_below(node)):
            self._pool.uncache(one.span)
            self._idle.pop(one, None)
            one.parent = None

    def _became_leaf(self, node: Node) -> None:
        if node.is_root:
            del self._roots[node.salt]
        else:  # it is as old as its last child: it is the next to go
            self._idle[node] = None
            self._idle.move_to_end(node, last=False)

    def clear(self) -> None:
        """Evict everything; no group may hold a pin."""
        while self.evict():
            pass

    @property
    def spans(self) -> list[Span]:
        """Every span that the cache holds."""
        return [n.span for root in self._roots.values() for n in _below(root) if not n.is_root]


def _can_replace(node: Node, parent: Node) -> bool:
    """Whether a node, whose KV is sound, holds its parent's tokens, and nobody else needs that."""
    alone = len(parent.children) == 1 and not parent.pins
    proven = node.span.segment.proven >= node.span.stop
    return alone and proven and node.holds_tokens_of(parent)


def _below(node: Node) -> Iterator[Node]:
    """A node and all nodes below it."""
    nodes = [node]
    while nodes:
        node = nodes.pop()
        nodes.extend(node.children.values())
        yield node


def _num_referenced(found: Context) -> int:
    """How many leading pieces have 128 tokens or more on average: these are not copied."""
    most = tokens = 0
    for count, span in enumerate(found, start=1):
        tokens += len(span)
        if count * PIECE <= tokens:
            most = count
    return most


def _agreement(span: Span, token_ids: list[int], done: int, stop: int) -> int:
    """How many leading tokens of a span equal those of a list from index `done` up to `stop`."""
    mine = span.segment.token_ids
    most = min(len(span), stop - done)
    # Slices first: they compare far faster than a loop, and most spans agree as a whole.
    if mine[span.start : span.start + most] == token_ids[done : done + most]:
        return most
    return next(i for i in range(most) if mine[span.start + i] != token_ids[done + i])
