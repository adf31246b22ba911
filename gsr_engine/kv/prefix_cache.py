"""The prefix cache: finds the spans that already hold the KV of a prompt's first tokens.

The cache is a tree over token ids, one per salt. A node's edge is a span: the tokens after its
parent's. A prompt walks down as far as its tokens agree, token by token. The spans on its way
become its context; only the remaining tokens are a new segment. Spans may be cached before they
are computed: their first reader computes them.

    salt ── (problem A, 0, 40) ─┬─ (problem A, 40, 90)
                                └─ (problem B, 0, 33)      B agrees with A in 40 tokens
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from gsr_engine.kv.page_pool import PagePool
from gsr_engine.kv.segments import Context, Segment, Span, context_length, first_tokens

MIN_SHARED = 16
"""A shorter common prefix (a chat header) is recomputed: sharing it would save nothing."""


@dataclass(eq=False, slots=True)
class Node:
    """A node with the edge that leads to it, its `span`.

    `pins` counts the groups whose cached tokens end at this node. A pin protects the whole path
    from the root, because only leaves are evicted. `salt` is set on a root only.
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


class PrefixCache:
    """Holds the pages of cached spans until they are evicted, the least recently used leaf first.

    Attributes:
        queried_tokens: tokens of all prompts that were looked up.
        hit_tokens: those of them that were found.
    """

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._roots: dict[str, Node] = {}
        self._idle: OrderedDict[Node, None] = OrderedDict()  # leaves without pins, oldest first
        self.queried_tokens = 0
        self.hit_tokens = 0

    def new_prompt(self, token_ids: list[int], salt: str) -> Segment:
        """A segment for a prompt whose context is the cached prefix.

        At least one token is new, because a step needs a row to draw from.
        """
        context = first_tokens(self._find(token_ids, salt), len(token_ids) - 1)
        found = context_length(context)
        if found < MIN_SHARED:
            context, found = (), 0
        self.queried_tokens += len(token_ids)
        self.hit_tokens += found
        return Segment(token_ids[found:], position=found, context=context)

    def as_dict(self) -> dict[str, int]:
        """The counters as plain numbers."""
        return {
            "queried_tokens": self.queried_tokens,
            "hit_tokens": self.hit_tokens,
            "salts": len(self._roots),
        }

    def _find(self, token_ids: list[int], salt: str) -> Context:
        """The cached spans that cover the longest known prefix of a prompt."""
        node, done, found = self._roots.get(salt), 0, []
        while node is not None and done < len(token_ids):
            child = node.children.get(token_ids[done])
            if child is None:
                break
            agreed = _agreement(child.span, token_ids, done)
            found.append(Span(child.span.segment, child.span.start, child.span.start + agreed))
            done += agreed
            node = child if agreed == len(child.span) else None  # None: they part inside the edge
        return tuple(found)

    def pin(self, context: Context, salt: str) -> Node:
        """Cache the tokens of a context and keep them until `unpin`; returns their last node.

        If the cache already has other spans with the same tokens, it keeps those spans.
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
                    agreed = _agreement(child.span, span.segment.token_ids[: span.stop], start)
                    if agreed < len(child.span):  # a node must end where the paths part
                        child = self._split(child, agreed)
                    start += agreed
                node = child
        node.pins += 1
        self._idle.pop(node, None)
        return node

    def unpin(self, node: Node) -> None:
        """Undo one `pin`; its path is now the most recently used."""
        node.pins -= 1
        if not node.pins and not node.children:
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
        """Drop the least recently used leaf without a pin; returns False if no such leaf exists."""
        if not self._idle:
            return False
        node, _ = self._idle.popitem(last=False)
        self._pool.uncache(node.span)
        parent = node.parent
        if parent is not None:
            del parent.children[node.first_token]
            if not parent.children and not parent.pins:
                self._became_leaf(parent)
        return True

    def _became_leaf(self, node: Node) -> None:
        if node.parent is None:
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
        spans, nodes = [], list(self._roots.values())
        while nodes:
            node = nodes.pop()
            nodes.extend(node.children.values())
            if node.parent is not None:
                spans.append(node.span)
        return spans


def _agreement(span: Span, token_ids: list[int], done: int) -> int:
    """How many leading tokens of a span equal those of a list from index `done` on."""
    mine = span.segment.token_ids
    most = min(len(span), len(token_ids) - done)
    # Slices first: they compare far faster than a loop, and most spans agree as a whole.
    if mine[span.start : span.start + most] == token_ids[done : done + most]:
        return most
    return next(i for i in range(most) if mine[span.start + i] != token_ids[done + i])
